"""Small training jobs, killed and continued, and a comparison of everything that must come out the same.

A `Job` is made afresh by a recipe, as a script makes it at every start. `train` drives it with a `Checkpointer`, or
in plain PyTorch, which says what is right.
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


class Killed(Exception):  # noqa: N818 - no error: it is meant
    """The job dies here."""


class Stop:
    """Dies when `point` is passed for the `number`-th time; by an exception, or as a SIGKILL would."""

    def __init__(self, point: str = "", number: int = 1, *, die: Callable[[], object] | None = None) -> None:
        self.point, self.number, self.die = point, number, die
        self.passed: Counter[str] = Counter()

    def __call__(self, point: str) -> None:
        self.passed[point] += 1
        if point == self.point and self.passed[point] == self.number:
            if self.die is not None:
                self.die()
            raise Killed(point)


class Plain:
    """A loop without milepost, behind the same face."""

    directory = None

    def __init__(self) -> None:
        self.vars: dict[str, Any] = {}

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def epochs(self, count: int) -> Iterable[int]:
        return range(count)

    def batches(self, loader: Iterable[Any], **_: Any) -> Iterable[Any]:
        return loader

    def step(self, **_: Any) -> None:
        return

    def epoch_end(self, **_: Any) -> None:
        return


def seed() -> None:
    """As scripts do first of all."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def train(
    recipe: Callable[[], Job],
    directory: Path | None = None,
    *,
    stop: Stop | None = None,
    epochs: int = EPOCHS,
    **options: Any,
) -> Outcome:
    """One attempt at `recipe`, up to the end or to where `stop` ends it.

    Without a directory in plain PyTorch: the uninterrupted run that all others are compared with.
    """
    stop = stop or Stop()
    seed()
    job = recipe()
    options = {"every": milepost.Every(steps=2, epochs=1), "progress": False, **options}
    losses: dict[int, float] = {}
    run: Any = Plain() if directory is None else milepost.Checkpointer(directory, **job.items, **options)
    try:
        with run:
            for _ in run.epochs(epochs):
                for number, batch in enumerate(run.batches(job.data)):
                    stop("asked")
                    loss = job.train(batch)
                    stop("trained")
                    at = run.vars["seen"] = run.vars.get("seen", 0) + 1
                    losses[at] = float(loss)
                    if job.steps_per_call(number):
                        run.step(loss=loss)
                    job.after_step()
                    stop("stepped")
                stop("looped")
                metrics = job.validate()
                stop("validated")
                run.epoch_end(**metrics)
                stop("epoch ended")
                job.after_epoch(metrics)
                stop("went on")
    except Killed:
        pass
    return Outcome(facts({"items": job.items, "vars": dict(run.vars), "rng": rng_states()}), losses, list(losses))


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
    recipe: Callable[[], Job], folder: Path, points: Iterable[tuple[str, int]] = POINTS, **options: Any
) -> None:
    """Kill the job at each of `points`, run the same command again, and compare with plain PyTorch."""
    right = train(recipe)
    for point, number in points:
        directory = folder / f"{point.replace(' ', '-')}-{number}"
        first = train(recipe, directory, stop=Stop(point, number), **options)
        second = train(recipe, directory, **options)
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
