"""Snapshots taken during the next forward and backward pass: the very bytes of the step they name, or not there at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_jobs import (
    backward,
    batch_of,
    folder_fixture,  # noqa: F401
    network,
    one_thread,  # noqa: F401
)
from torch import nn

import milepost
from milepost.errors import SaveFailedError
from milepost.pipeline.images import Image

ALL = milepost.Keep(last=None)


class Staging:
    """Watches the staging thread: what it copied and when, and holds it back where a test says so."""

    def __init__(self) -> None:
        self.copied: list[str] = []
        self.held = threading.Event()
        """Set when it waits."""
        self._open = threading.Event()
        self._left: int | None = None

    def hold(self, after: int = 0) -> None:
        """Copy nothing more after so many tensors, until `let_go`."""
        self.held.clear()
        self._open.clear()
        self._left = after

    def let_go(self) -> None:
        self._left = None
        self._open.set()

    def copies(self, path: str) -> None:
        if self._left == 0:
            self.held.set()
            assert self._open.wait(60)
        if self._left is not None:
            self._left -= 1
        self.copied.append(path)


@pytest.fixture
def staging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Staging]:
    watch, real = Staging(), Image._copy

    def copy(image: Image, leaf: Any, offset: int) -> None:
        if threading.current_thread().name == "milepost-stage":
            watch.copies(leaf.path)
        real(image, leaf, offset)

    monkeypatch.setattr(Image, "_copy", copy)
    yield watch
    watch.let_go()


def arrays(source: Any) -> dict[str, bytes]:
    return {path: bytes(np.ascontiguousarray(source[path])) for path in source if not path.startswith("run/")}


def checkpoints(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every tensor of every visible checkpoint, read back and verified."""
    return {one.name: arrays(milepost.open(one)) for one in sorted(folder.glob("step-*"))}


def live(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
    """What a checkpoint taken now has to hold."""
    found = {f"model/{name}": value for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer/state/{number}/{key}": one for key, one in state.items() if isinstance(one, torch.Tensor)}
    return {path: value.detach().contiguous().numpy().tobytes() for path, value in found.items()}


def by_key(found: dict[str, bytes]) -> dict[str, bytes]:
    """Integer keys are marked in paths; here only which is which matters."""
    return {path.replace("~2", ""): data for path, data in found.items()}


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "Adam foreach amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=True, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.5),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "LBFGS strong Wolfe": lambda p: torch.optim.LBFGS(p, max_iter=3, line_search_fn="strong_wolfe"),
}


def train(folder: Path, make: Callable[[Any], torch.optim.Optimizer], stage: str, steps: int = 5) -> None:
    torch.manual_seed(0)
    model = network()
    optimizer = make(model.parameters())
    options: dict[str, Any] = {"stage": stage, "every": milepost.Every(steps=1), "keep": ALL, "progress": False}
    with milepost.Checkpointer(folder, model=model, optimizer=optimizer, **options) as run:
        for step in run.steps(steps):
            batch = batch_of(step)

            def closure(batch: Any = batch) -> torch.Tensor:
                optimizer.zero_grad()
                return backward(model, batch)

            optimizer.step(closure)
            run.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_bytes_as_by_copy(name: str, folder: Path, staging: Staging) -> None:
    train(folder / "copy", OPTIMIZERS[name], "copy")
    assert not staging.copied
    train(folder / "overlap", OPTIMIZERS[name], "overlap")
    assert {path.partition("/")[0] for path in staging.copied} >= {"model"}, "nothing was overlapped"
    by_copy, by_overlap = checkpoints(folder / "copy"), checkpoints(folder / "overlap")
    assert len(by_copy) == 5
    assert by_overlap == by_copy
    steps = [by_copy[name]["model/0.weight"] for name in by_copy]
    assert len(set(steps)) == 5, "steps that change nothing show nothing"


@pytest.mark.parametrize("whose", ["its own", "another"])
def test_an_optimizer_step_waits_for_what_is_being_copied(whose: str, folder: Path, staging: Staging) -> None:
    model, other = network(), nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    stranger = torch.optim.SGD(other.parameters(), lr=0.1)
    with milepost.Checkpointer(folder, model=model, optimizer=optimizer, keep=ALL, progress=False) as run:
        for step in range(3):
            backward(model, batch_of(step))
            optimizer.step()
            run.step()
        right = live(model, optimizer)
        staging.hold(after=2)
        pending = run.save()
        assert pending is not None
        assert staging.held.wait(60)
        backward(model, batch_of(9))  # forward and backward do not wait
        backward(other, batch_of(9))
        assert len(staging.copied) == 2
        threading.Timer(0.2, staging.let_go).start()
        (optimizer if whose == "its own" else stranger).step()
        assert len(staging.copied) == 8, "four parameters and their momentum"
        listed = pending.result(timeout=60)
    assert by_key(arrays(milepost.open(folder / listed.folder))) == by_key(right)


def test_an_optimizer_that_never_steps_again(folder: Path, staging: Staging) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    with milepost.Checkpointer(folder, model=model, optimizer=optimizer, progress=False) as run:
        backward(model, batch_of(0))
        optimizer.step()
        run.step()
        right = live(model, optimizer)
        pending = run.save()
        assert pending is not None
        assert pending.result(timeout=60).step == 1
        assert staging.copied
    assert by_key(checkpoints(folder)["step-00000001"]) == by_key(right)


def test_several_optimizers_that_take_turns(folder: Path, staging: Staging) -> None:
    first, second = network(), network()
    one = torch.optim.AdamW(first.parameters(), lr=1e-2)
    other = torch.optim.SGD(second.parameters(), lr=0.1, momentum=0.9)
    right: dict[str, Any] = {}
    items = {"first": first, "second": second, "one": one, "other": other}
    with milepost.Checkpointer(folder, **items, every=milepost.Every(steps=1), keep=ALL, progress=False) as run:
        for step in run.steps(6):
            model, optimizer = ((first, one), (second, other))[step % 2]
            optimizer.zero_grad()
            backward(model, batch_of(step))
            optimizer.step()
            run.step()
            weights = [*first.state_dict().values(), *second.state_dict().values()]
            right[f"step-{step + 1:08}"] = [value.numpy().tobytes() for value in weights]
    names = [f"{item}/{name}" for item in ("first", "second") for name in first.state_dict()]
    assert {name: [found[path] for path in names] for name, found in checkpoints(folder).items()} == right


# -- weights that change outside a step ---------------------------------------------------------------------------------


def by_addition(model: nn.Module) -> None:
    with torch.no_grad():
        model[3].weight.add_(1.0)


def by_data(model: nn.Module) -> None:
    model[3].weight.data.mul_(2.0)


def by_numpy(model: nn.Module) -> None:
    model[3].weight.detach().numpy()[:] += 1.0


@pytest.mark.parametrize("change", [by_addition, by_data, by_numpy])
@pytest.mark.parametrize("copied_before", [0, 1, 5])
def test_a_torn_snapshot_is_never_seen(
    change: Callable[[nn.Module], None],
    copied_before: int,
    folder: Path,
    staging: Staging,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    right: dict[int, dict[str, bytes]] = {}
    with milepost.Checkpointer(
        folder, model=model, optimizer=optimizer, every=milepost.Every(steps=3), keep=ALL
    ) as run:
        for batch in run.batches([batch_of(step) for step in range(10)]):
            if run.progress.step == 3:
                assert staging.held.wait(60)
                change(model)
                staging.let_go()
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
            run.step()
            right[run.progress.step] = live(model, optimizer)
            if run.progress.step == 3:
                staging.hold(after=copied_before)
    found = checkpoints(folder)
    assert sorted(found) == [f"step-{step:08}" for step in (4, 6, 9, 10)], (
        "the third is taken again at the next boundary"
    )
    for name, tensors in found.items():
        assert by_key(tensors) == by_key(right[int(name[5:])]), name
    assert "taken again by copy" in capsys.readouterr().err


def test_who_waits_for_a_torn_snapshot_is_told(folder: Path, staging: Staging) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with milepost.Checkpointer(folder, model=model, optimizer=optimizer, progress=False) as run:
        backward(model, batch_of(0))
        optimizer.step()
        run.step()
        staging.hold()
        pending = run.save()
        assert pending is not None
        assert staging.held.wait(60)
        by_addition(model)
        staging.let_go()
        with pytest.raises(SaveFailedError, match="changed while"):
            pending.result(timeout=60)
        right = live(model, optimizer)
    assert by_key(checkpoints(folder)["step-00000001"]) == by_key(right), "taken again at the end"
    assert pending.result(timeout=1).step == 1


def test_other_memory_behind_a_parameter_does_not_matter(folder: Path, staging: Staging) -> None:
    model = nn.Linear(1 << 10, 1 << 10)  # so large that its memory goes back to the system when it is given back
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with milepost.Checkpointer(folder, model=model, optimizer=optimizer, progress=False) as run:
        model(torch.ones(1, 1 << 10)).sum().backward()
        optimizer.step()
        run.step()
        right = live(model, optimizer)
        staging.hold()
        pending = run.save()
        assert pending is not None
        assert staging.held.wait(60)
        model.weight.data = torch.zeros(1 << 10, 1 << 10)
        staging.let_go()
        listed = pending.result(timeout=60)
        assert arrays(milepost.open(folder / listed.folder)) == right
        run.step(step=2)


def test_code_that_changes_weights_as_it_likes_is_exact_by_copy(folder: Path, staging: Staging) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    right: dict[int, dict[str, bytes]] = {}
    options: dict[str, Any] = {"stage": "copy", "every": milepost.Every(steps=1), "keep": ALL, "progress": False}
    with milepost.Checkpointer(folder, model=model, optimizer=optimizer, **options) as run:
        for batch in run.batches([batch_of(step) for step in range(6)]):
            by_data(model)
            by_numpy(model)
            backward(model, batch)
            optimizer.step()
            run.step()
            model[0].bias.data.add_(1.0)
            right[run.progress.step] = live(model, optimizer)
    assert not staging.copied
    found = checkpoints(folder)
    assert len(found) == 6
    for name, tensors in found.items():
        assert by_key(tensors) == by_key(right[int(name[5:])])


# -- steps that no hook reaches -----------------------------------------------------------------------------------------


class Foreign(torch.optim.Optimizer):
    """Written without torch's own decorators, so that all of a step can be one graph."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["sum"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["sum"].add_(parameter.grad)
                parameter.sub_(self.state[parameter]["sum"], alpha=group["lr"])


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about hooks and profilers in compiled code
@pytest.mark.parametrize("eager_steps", [0, 2])
@pytest.mark.parametrize("kind", ["SGD momentum", "AdamW", "AdamW fused", "one graph"])
def test_a_compiled_step(
    kind: str, eager_steps: int, folder: Path, staging: Staging, capsys: pytest.CaptureFixture[str]
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = network()
    optimizer = Foreign(model.parameters()) if kind == "one graph" else OPTIMIZERS[kind](model.parameters())
    compiled = torch.compile(lambda: optimizer.step(), backend="eager", fullgraph=kind == "one graph")
    right: dict[int, dict[str, bytes]] = {}
    with milepost.Checkpointer(
        folder, model=model, optimizer=optimizer, every=milepost.Every(steps=1), keep=ALL
    ) as run:
        for batch in run.batches([batch_of(step) for step in range(6)]):
            optimizer.zero_grad()
            backward(model, batch)
            if run.progress.step < eager_steps:
                optimizer.step()
            else:
                if run.progress.step == eager_steps > 0:
                    assert staging.held.wait(60)
                compiled()
                staging.let_go()
            run.step()
            right[run.progress.step] = live(model, optimizer)
            if run.progress.step == eager_steps:
                staging.hold(after=1)
    found = checkpoints(folder)
    assert run.progress.step == 6, "every step is counted"
    torn = [] if eager_steps == 0 else [f"step-{eager_steps:08}"]
    assert sorted([*found, *torn]) == [f"step-{step:08}" for step in range(1, 7)]
    for name, tensors in found.items():
        assert by_key(tensors) == by_key(right[int(name[5:])]), name
    said = capsys.readouterr().err
    assert "does not pass torch's hooks" in said or "taken again by copy" in said
