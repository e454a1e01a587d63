"""States that are larger than the memory allowed, and saves that come faster than the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_jobs import (
    folder_fixture,  # noqa: F401
    one_thread,  # noqa: F401
)
from torch import nn

import milepost
from milepost.folder.commit import Committer

ALLOWED = 48 << 20
ALL = milepost.Keep(last=None)


class Large(nn.Module):
    """Tensors of every awkward kind around the edges of the blocks they are written in; 70 MB in all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(3 << 20))
        self.columns = nn.Parameter(torch.randn(1 << 11, 1 << 10).t())  # not in C order
        self.halves = nn.Parameter(torch.randn((5 << 20) + 3).to(torch.bfloat16))
        self.last = nn.Parameter(torch.randn(9 << 20))
        self.register_buffer("bytes_", torch.arange(1001, dtype=torch.uint8))
        self.register_buffer("nothing", torch.empty(0, 5))
        self.register_buffer("count", torch.tensor(7))


def facts(module: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {
        name: (value.dtype, value.stride(), value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, value in module.state_dict().items()
    }


@pytest.mark.parametrize("step_between", [False, True])
def test_a_state_larger_than_the_memory_allowed(step_between: bool, folder: Path) -> None:
    torch.manual_seed(0)
    model = Large()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options: dict[str, Any] = {"max_memory": ALLOWED, "keep": ALL, "progress": False}
    with milepost.Checkpointer(folder, model=model, optimizer=optimizer, **options) as run:
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
            run.step()
        right = facts(model)
        pending = run.save()
        assert pending is not None
        assert pending.done(), "training waited"
        if step_between:
            optimizer.step()
        listed = pending.result()
        run.vars["end"] = True
    if step_between:
        source = milepost.open(folder / listed.folder)
        found = np.ascontiguousarray(source["model/first"]).tobytes()
        assert found == right["first"][2]
        return
    fresh = Large()
    with milepost.Checkpointer(folder, model=fresh, optimizer=torch.optim.SGD(fresh.parameters(), lr=0.1), **options):
        assert facts(fresh) == right


def test_a_small_state_is_not_written_piece_by_piece(folder: Path) -> None:
    held, real = threading.Event(), Committer.commit

    def commit(*args: Any) -> Any:
        assert held.wait(60)
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Committer, "commit", commit)
        with milepost.Checkpointer(folder, model=nn.Linear(9, 9), max_memory=ALLOWED, progress=False) as run:
            run.step()
            pending = run.save()
            assert pending is not None
            assert not pending.done()
            held.set()
            pending.result(timeout=60)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Semaphore]:
    """Saves become durable one by one, as they are let through."""
    gate, real = threading.Semaphore(0), Committer.commit

    def commit(*args: Any) -> Any:
        assert gate.acquire(timeout=60)
        return real(*args)

    monkeypatch.setattr(Committer, "commit", commit)
    yield gate
    gate.release(1000)


def steps(folder: Path) -> list[int]:
    return sorted(int(one.name[5:]) for one in folder.glob("step-*"))


def train(run: Any, w: Any, count: int, between: Callable[[int], None]) -> None:
    for _ in run.steps(count):
        w = w + 1
        run.step(w=w)
        between(run.progress.step)


def test_a_save_that_finds_the_last_one_in_flight_is_skipped(
    folder: Path, slow: threading.Semaphore, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"every": milepost.Every(steps=2), "keep": ALL, "on_busy": "skip"}
    with milepost.Checkpointer(folder, w=np.zeros(2), **options) as run:

        def between(step: int) -> None:
            if step == 7:
                assert steps(folder) == []
                slow.release(1000)
                run.wait()

        train(run, run["w"], 10, between)
        assert run.save() is not None or steps(folder)
    found = steps(folder)
    assert found[0] == 2
    assert 4 not in found, "the save of step 2 was in flight"
    assert 6 not in found
    assert found[-1] == 10, "the last one never is"
    assert "step 4 is not saved: the last save is still in flight" in capsys.readouterr().err
    for one in folder.glob("step-*"):
        assert np.array_equal(milepost.open(one)["w"], np.full(2, float(one.name[5:])))


def test_a_save_by_hand_says_that_it_was_skipped(folder: Path, slow: threading.Semaphore) -> None:
    with milepost.Checkpointer(folder, w=np.zeros(2), on_busy="skip", progress=False) as run:
        run.step(w=np.ones(2))
        first = run.save()
        assert first is not None
        run.step(w=np.ones(2))
        assert run.save() is None
        slow.release(1000)
        assert first.result(timeout=60).step == 1
    assert steps(folder) == [1, 2]


def test_a_save_waits_for_the_last_one(folder: Path, slow: threading.Semaphore) -> None:
    options: dict[str, Any] = {"every": milepost.Every(steps=1), "keep": ALL, "progress": False}
    with milepost.Checkpointer(folder, w=np.zeros(2), **options) as run:

        def between(step: int) -> None:
            # At the save of `step`, the one before it is let through by another thread, a little later.
            threading.Timer(0.02, slow.release).start()

        train(run, run["w"], 5, between)
    assert steps(folder) == [1, 2, 3, 4, 5]


def test_pending_tells_how_it_stands(folder: Path, slow: threading.Semaphore) -> None:
    with milepost.Checkpointer(folder, w=np.zeros(2), progress=False) as run:
        run.step(w=np.ones(2))
        pending = run.save()
        assert pending is not None
        assert not pending.done()
        assert pending.seconds is None
        with pytest.raises(TimeoutError, match="step 1"):
            pending.result(timeout=0.01)
        slow.release(1000)
        listed = pending.result(timeout=60)
        assert (listed.step, listed.folder) == (1, "step-00000001")
        assert pending.done()
        assert pending.problem is None
        assert pending.seconds is not None
        assert pending.seconds > 0


def test_latest_moves_and_old_ones_go_only_when_the_new_one_is_durable(folder: Path, slow: threading.Semaphore) -> None:
    with milepost.Checkpointer(folder, w=np.zeros(2), keep=milepost.Keep(last=1), progress=False) as run:
        run.step(w=np.ones(2))
        first = run.save()
        slow.release()
        assert first is not None
        first.result(timeout=60)
        run.step(w=np.ones(2))
        second = run.save()
        assert second is not None
        assert steps(folder) == [1]
        assert (folder / "latest").readlink() == Path("step-00000001")
        slow.release(1000)
        second.result(timeout=60)
        run.wait()
        assert steps(folder) == [2]
        assert (folder / "latest").readlink() == Path("step-00000002")
