"""Small training jobs, killed and continued, and a comparison of everything that must come out the same.

A script is a function of a `Trial`, which plays it: with a `Checkpointer`, or in plain PyTorch, which says what is right. Most are
the usual script around a `Job`, which a recipe makes afresh, as a script does at every start.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import milepost

EPOCHS, BATCHES, SIZE = 3, 7, 4


@dataclass
class Job:
    """What a training script consists of; the callables close over the objects in `items`."""

    items: dict[str, Any]
    train: Callable[[Any], Any]
    """One batch: forward, backward, optimizer step; returns the loss."""
    data: Iterable[Any] = field(default_factory=lambda: loader())
    after_step: Callable[[], object] = lambda: None
    """What a script does between ``run.step`` and the next batch."""
    validate: Callable[[], dict[str, Any]] = dict
    after_epoch: Callable[[dict[str, Any]], object] = lambda metrics: None
    """What it does after ``run.epoch_end``."""
    steps_per_call: Callable[[int], bool] = lambda number: True
    """Whether ``run.step`` is called for this batch of the epoch."""


class Outcome(NamedTuple):
    facts: dict[str, Any]
    losses: dict[int, float]
    """By the number of the batch since the very beginning."""
    seen: list[int]
    """The numbers of the batches this attempt trained on."""
    run: Any


class Killed(Exception):  # noqa: N818 - no error: it is meant
    """The job dies here."""


class Plain:
    """A loop without milepost, behind the same face."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        self.vars: dict[str, Any] = {}
        self.items = dict(items)
        self.progress = SimpleNamespace(step=0, epoch=0, batch=0)

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __getitem__(self, name: str) -> Any:
        return self.items[name]

    def epochs(self, count: int) -> Iterator[int]:
        while self.progress.epoch < count:
            epoch = self.progress.epoch
            yield epoch
            self.progress.epoch = epoch + 1

    def steps(self, count: int) -> Iterator[int]:
        while self.progress.step < count:
            yield self.progress.step

    def batches(self, loader: Iterable[Any], **_: Any) -> Iterable[Any]:
        return loader

    def step(self, **values: Any) -> None:
        self.items |= {name: value for name, value in values.items() if name in self.items}
        self.progress.step += 1

    def epoch_end(self, **_: Any) -> None:
        return

    def save(self) -> None:
        return

    def wait(self) -> None:
        return


class Trial:
    """One attempt of a script, which calls it with the name of every point at which it may be killed.

    Args:
        directory: of the run; without one it is plain PyTorch, uninterrupted, which says what is right.
        stop: the point at which it dies, and which time it is passed.
        die: what happens there, if not an exception.
        options: for the Checkpointer.
    """

    def __init__(
        self,
        directory: Path | None = None,
        stop: tuple[str, int] = ("", 0),
        die: Callable[[], object] | None = None,
        **options: Any,
    ) -> None:
        self.directory, self.stop, self.die = directory, stop, die
        self.options = {"every": milepost.Every(steps=2, epochs=1), "progress": False, **options}
        self.passed: Counter[str] = Counter()
        self.losses: dict[int, float] = {}
        self.items: dict[str, Any] = {}
        self.run: Any = None
        self.end: BaseException | None = None
        """What ended the script before its time."""

    def open(self, **items: Any) -> Any:
        """The run, for a with block."""
        self.items = items
        self.run = (
            Plain(items) if self.directory is None else milepost.Checkpointer(self.directory, **items, **self.options)
        )
        return self.run

    def __call__(self, point: str) -> None:
        self.passed[point] += 1
        if (point, self.passed[point]) == self.stop:
            if self.die is None:
                raise Killed(point)
            self.die()

    def lost(self, loss: Any) -> None:
        """One more batch was trained on."""
        at = self.run.vars["seen"] = self.run.vars.get("seen", 0) + 1
        self.losses[at] = float(loss)
        self("lost")

    def play(self, script: Callable[[Trial], object]) -> Outcome:
        """Run the script to its end, or to where it dies."""
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        try:
            script(self)
        except (Killed, milepost.Stopped) as end:
            self.end = end
        values = {name: self.run[name] for name in self.items}
        state = {"items": values, "vars": dict(self.run.vars), "rng": rng_states()}
        return Outcome(facts(state), self.losses, list(self.losses), self.run)


def script_of(recipe: Callable[[], Job], epochs: int = EPOCHS) -> Callable[[Trial], None]:
    """The usual script around a job."""

    def script(trial: Trial) -> None:
        job = recipe()
        with trial.open(**job.items) as run:
            for _ in run.epochs(epochs):
                # After a restart the first batch of the epoch is not the first that comes.
                for number, batch in enumerate(run.batches(job.data), run.progress.batch):
                    trial("asked")
                    loss = job.train(batch)
                    trial("trained")
                    trial.lost(loss)
                    if job.steps_per_call(number):
                        run.step(loss=loss)
                    job.after_step()
                    trial("stepped")
                trial("looped")
                metrics = job.validate()
                trial("validated")
                run.epoch_end(**metrics)
                trial("epoch ended")
                job.after_epoch(metrics)
                trial("went on")

    return script


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in memory where there is such a file system: what is tested with it is not whether disks sync."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of torch would only get in each other's way, and in that of forks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ALL_POINTS = [
    ("asked", 6), ("trained", BATCHES), ("stepped", BATCHES), ("looped", 1), ("validated", 1),
    ("epoch ended", 1), ("went on", 1), ("asked", BATCHES + 1), ("trained", BATCHES + 3), ("stepped", 2 * BATCHES),
]  # fmt: skip
"""Where a job is killed, one after the other, each in a run of its own."""
POINTS = [("trained", 6), ("looped", 1), ("epoch ended", 1), ("stepped", 2 * BATCHES)]


def check_exact(
    script: Callable[[Trial], object], folder: Path, points: Iterable[tuple[str, int]] = POINTS, **options: Any
) -> None:
    """Kill the script at each of `points`, run the same command again, and compare with plain PyTorch."""
    right = Trial().play(script)
    check_same(Trial(folder / "whole", **options).play(script).facts, right.facts, "not killed at all")
    for point, number in points:
        directory = folder / f"{point.replace(' ', '-')}-{number}"
        first = Trial(directory, (point, number), **options).play(script)
        second = Trial(directory, **options).play(script)
        where = f"killed at {point!r}, time {number}"
        check_same(second.facts, right.facts, where)
        for attempt in (first, second):
            assert attempt.losses == {at: right.losses[at] for at in attempt.losses}, where
        assert 0 < len(second.seen) < len(right.seen), f"{where}: it did not continue, but began anew"
        assert second.seen[-1] == len(right.seen)


# -- what is compared ------------------------------------------------------------------------------------------------------


def facts(value: Any, path: str = "") -> dict[str, Any]:
    """Everything there is to compare below `value`, by path; tensors with dtype, shape, strides and bytes."""
    if isinstance(value, torch.Tensor):
        plain = value.detach().to_dense() if value.layout is not torch.strided else value.detach()
        data = plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return {
            path: (value.dtype, tuple(value.shape), value.stride() if value.layout is torch.strided else None, data)
        }
    if isinstance(value, np.ndarray):
        return {path: (str(value.dtype), value.shape, value.tobytes())}
    if isinstance(value, nn.Module):
        return facts(value.state_dict(), path)
    if isinstance(value, torch.Generator):
        return facts(value.get_state(), path)
    if isinstance(value, np.random.Generator):
        return facts(value.bit_generator.state, path)
    if isinstance(value, random.Random):
        return {path: value.getstate()}
    if callable(getattr(value, "state_dict", None)):
        return facts(value.state_dict(), path)
    if isinstance(value, Mapping):
        return {at: fact for key, item in value.items() for at, fact in facts(item, f"{path}/{key}").items()} or {
            path: "empty"
        }
    if isinstance(value, (list, tuple)):
        inside = {at: fact for number, item in enumerate(value) for at, fact in facts(item, f"{path}/{number}").items()}
        return {**inside, path: (type(value).__name__, len(value))}
    return {path: (type(value).__name__, repr(value))}


def rng_states() -> dict[str, Any]:
    return {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}


def check_same(found: Mapping[str, Any], right: Mapping[str, Any], where: str = "") -> None:
    differing = sorted(path for path in {**found, **right} if found.get(path) != right.get(path))
    if differing:
        shown = [f"  {path}: {_brief(found.get(path))} instead of {_brief(right.get(path))}" for path in differing[:12]]
        raise AssertionError(f"{where}: {len(differing)} of {len(right)} differ\n" + "\n".join(shown))


def _brief(fact: Any) -> str:
    if isinstance(fact, tuple) and fact and isinstance(fact[-1], bytes):
        return f"{fact[:-1]} {fact[-1][:8].hex()}.."
    return repr(fact)[:90]


# -- processes ---------------------------------------------------------------------------------------------------------------


def in_child(call: Callable[[], Any], *, wait: bool = True) -> int:
    """Run `call` in a fork of this process and return its exit code (negative: the signal), or its pid without `wait`.

    A fork has torch loaded already. It never returns to the test: it ends without cleaning up, unless `call` says otherwise.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if wait else pid
    code = 70
    try:
        call()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def keep(path: Path, value: Any) -> None:
    """Hand `value` from a child to the test."""
    path.write_bytes(pickle.dumps(value))


def kept(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


# -- pieces of recipes ---------------------------------------------------------------------------------------------------------


def loader(**options: Any) -> DataLoader[Any]:
    """`BATCHES` batches of 4 × 8 numbers and one of 2 classes each, shuffled anew in every pass."""
    generator = torch.Generator().manual_seed(1)
    count = BATCHES * SIZE - 1  # the last batch is smaller
    inputs, classes = torch.randn(count, 8, generator=generator), torch.randint(0, 2, (count,), generator=generator)
    return DataLoader(TensorDataset(inputs, classes), **{"batch_size": SIZE, "shuffle": True, **options})


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same batch for the same step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(SIZE, 8, generator=generator), torch.randint(0, 2, (SIZE,), generator=generator)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def backward(model: nn.Module, batch: Any) -> torch.Tensor:
    inputs, classes, *_ = batch
    loss = nn.functional.cross_entropy(model(inputs), classes)
    loss.backward()
    return loss.detach()


def simple(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Any], torch.Tensor]:
    """The usual step."""

    def step(batch: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss = backward(model, batch)
        optimizer.step()
        return loss

    return step


def validation(model: nn.Module) -> Callable[[], dict[str, float]]:
    """Loss on data of its own; draws random numbers, as some validations do."""

    def validate() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            inputs = torch.randn(6, 8)
            loss = nn.functional.cross_entropy(model(inputs), torch.zeros(6, dtype=torch.int64))
        model.train()
        return {"val_loss": loss.item()}

    return validate


def passes(directory: Path) -> Iterator[str]:
    """The checkpoints of a run, oldest first."""
    yield from sorted(one.name for one in directory.glob("step-*"))
