"""How a run ends: cleanly, by an exception, by a power cut, by another one that takes over. And when it saves until then."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_jobs import (
    Job,
    Trial,
    check_same,
    folder_fixture,  # noqa: F401
    in_child,
    keep,
    kept,
    network,
    normalised,
    one_thread,  # noqa: F401
    script_of,
    simple,
)

import milepost
from milepost.errors import RunBusy, RunFenced

ALL = milepost.Keep(last=None)


def start(directory: Path, **options: Any) -> milepost.Checkpointer:
    return milepost.Checkpointer(directory, **{"w": np.zeros(1), "progress": False, "keep": ALL, **options})


def steps(directory: Path) -> list[int]:
    return sorted(int(one.name[5:]) for one in directory.glob("step-*"))


def ended(directory: Path, number: int = 1) -> str | None:
    found: str | None = json.loads((directory / "attempts" / f"{number}.json").read_text()).get("ended")
    return found


def job() -> Job:
    model = normalised()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    return Job({"model": model, "optimizer": optimizer}, simple(model, optimizer))


# -- exceptions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [ZeroDivisionError("mine"), KeyboardInterrupt(), SystemExit(4), GeneratorExit()])
def test_an_exception_saves_nothing_and_is_not_masked(problem: BaseException, folder: Path) -> None:
    def script() -> None:
        with start(folder) as run:
            for _ in run.steps(5):
                if run.progress.step == 3:
                    raise problem
                run.step(w=run["w"] + 1)

    with pytest.raises(type(problem)) as caught:
        script()
    assert caught.value is problem
    assert caught.value.__context__ is None
    assert steps(folder) == [], "nobody knows whether what is in memory is the end of a step"
    assert ended(folder) == "failed"
    with start(folder) as run:
        assert run.resumed_from is None


def test_an_exception_waits_for_the_save_in_flight(folder: Path) -> None:
    def script() -> None:
        with start(folder) as run:
            run.step(w=np.ones(1))
            run.save()
            run.step(w=np.full(1, 2.0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        script()
    assert steps(folder) == [1]
    assert np.array_equal(milepost.open(folder)["w"], np.ones(1))


def test_half_a_step_is_never_captured(folder: Path) -> None:
    """In the middle of an optimizer step, with a save of the step before in flight."""

    class Explodes(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step(closure)
            if run.progress.step == 3:
                raise ZeroDivisionError

    model = network()
    optimizer = Explodes(model.parameters(), lr=0.1)
    train = simple(model, optimizer)
    right: dict[int, Any] = {}
    run = start(folder, model=model, optimizer=optimizer, every=milepost.Every(steps=1), state=None)

    def script() -> None:
        with run:
            for batch in run.batches(job().data):
                train(batch)
                run.step(w=run["w"])
                right[run.progress.step] = model[0].weight.detach().numpy().copy()

    with pytest.raises(ZeroDivisionError):
        script()
    assert steps(folder) == [1, 2, 3]
    for one in folder.glob("step-*"):
        assert np.array_equal(milepost.open(one)["model/0.weight"], right[int(one.name[5:])])


@pytest.mark.parametrize("point", [("asked", 4), ("trained", 7), ("stepped", 7), ("looped", 1), ("epoch ended", 1)])
def test_a_process_that_is_gone_in_an_instant(point: tuple[str, int], folder: Path) -> None:
    """No handler runs, no thread ends its work: as by SIGKILL, but at a chosen point."""
    script = script_of(job)
    right = Trial().play(script)
    assert in_child(lambda: Trial(folder / "run", point, lambda: os._exit(9)).play(script)) == 9
    directory = folder / "run"
    assert ended(directory) is None
    second = Trial(directory).play(script)
    check_same(second.facts, right.facts)
    assert second.seen[-1] == len(right.seen)


# -- the clean end -------------------------------------------------------------------------------------------------------------


def test_without_a_with_block(folder: Path) -> None:
    run = start(folder)
    run.step(w=np.ones(1))
    assert steps(folder) == []
    run.close()
    assert steps(folder) == [1]
    assert ended(folder) == "complete"
    run.close()
    with start(folder) as again:
        assert again.complete


@pytest.mark.parametrize("nested", [False, True])
def test_closed_in_the_middle_of_a_loop_it_goes_on_from_there(nested: bool, folder: Path) -> None:
    def train(limit: int) -> list[int]:
        run, seen = start(folder), []

        def step(batch: int) -> bool:
            seen.append(batch)
            run.step(w=run["w"] + 1)
            if run.progress.step == limit:
                run.close()
            return run.progress.step == limit

        for one in run.batches(list(range(9)), name="outer"):
            if step(one):
                break
            if nested and any(step(more) for more in run.batches([10, 20], name="inner")):
                break
        return seen

    # A loop inside a batch with a step cannot be come back to: the next batch is what it goes on with.
    assert [train(3), train(5)] == ([[0, 10, 20], [1, 10]] if nested else [[0, 1, 2], [3, 4]])
    assert steps(folder) == [3, 5]


def test_an_end_with_nothing_new_saves_nothing_again(folder: Path) -> None:
    with start(folder) as run:
        run.step(w=np.ones(1))
        run.save()
        run.wait()
        before = (folder / "step-00000001" / "manifest.json").stat()
    after = (folder / "step-00000001" / "manifest.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_step_saved_twice(folder: Path) -> None:
    """By hand at the last batch, and again at the end of the epoch, which knows a metric more."""
    with start(folder, every=milepost.Every(epochs=1)) as run:
        for _ in run.epochs(2):
            for _ in run.batches([1, 2]):
                run.step(w=run["w"] + 1)
                run.save()
            run.epoch_end(val_loss=0.25)
    assert steps(folder) == [1, 2, 3, 4]
    summary = milepost.open(folder / "step-00000002").manifest.summary
    assert (summary.phase, summary.epoch, summary.metric("val_loss")) == ("epoch-ended", 1, 0.25)
    assert milepost.open(folder / "step-00000003").manifest.summary.metric("val_loss") is None


# -- two at once -----------------------------------------------------------------------------------------------------------------


def test_the_same_run_twice_in_one_process(folder: Path) -> None:
    with start(folder) as first:
        with pytest.raises(RunBusy, match=f"process {os.getpid()}"):
            start(folder)
        first.step(w=np.ones(1))
    assert steps(folder) == [1]


def test_two_runs_in_one_process(folder: Path) -> None:
    def script(trial: Trial, other: Path | None) -> None:
        made, more = job(), job()
        with trial.open(**made.items) as run:
            second = Trial(other).open(**more.items)
            with second:
                for _ in run.epochs(2):
                    for batch in run.batches(made.data):
                        loss = made.train(batch) + more.train(batch)
                        trial.lost(loss)
                        run.step()
                        second.step()
                        trial("stepped")

    right = Trial().play(lambda trial: script(trial, None))
    Trial(folder / "one", ("stepped", 5), every=milepost.Every(steps=1)).play(
        lambda trial: script(trial, folder / "two")
    )
    assert steps(folder / "one")
    assert steps(folder / "two")
    resumed = Trial(folder / "one").play(lambda trial: script(trial, folder / "two"))
    check_same(
        {path: fact for path, fact in resumed.facts.items() if "/items/" in path},
        {path: fact for path, fact in right.facts.items() if "/items/" in path},
    )


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_run_that_was_taken_over_stops_at_its_next_call(on_error: str, folder: Path) -> None:
    def newcomer() -> None:
        with start(folder, takeover=True) as run:
            keep(folder / "begun", run.progress.step)
            for _ in run.steps(20):
                run.step(w=run["w"] + 100)
                run.save()

    def stale() -> None:
        with start(folder, on_error=on_error) as run:
            for _ in run.steps(9):
                run.step(w=run["w"] + 1)
                run.save()
                if run.progress.step == 3:
                    run.wait()
                    assert in_child(newcomer) == 0

    with pytest.raises(RunFenced) as caught:
        stale()
    assert caught.value.where == str(folder)
    assert caught.value.hint
    assert kept(folder / "begun") == 3
    assert steps(folder) == list(range(1, 21))
    for one in folder.glob("step-*"):
        step = int(one.name[5:])
        assert milepost.open(one)["w"][0] == (step if step <= 3 else 3 + 100 * (step - 3))
    assert ended(folder, 1) is None, "it has no say any more"
    assert ended(folder, 2) == "complete"


# -- when it saves -----------------------------------------------------------------------------------------------------------------


def visited(folder: Path, every: Any, *, kill: tuple[int, ...] = ()) -> list[int]:
    """The steps of all saves of a run of four epochs with five steps each, killed at some of them."""
    saved: set[int] = set()
    for attempt in range(len(kill) + 1):
        with pytest.MonkeyPatch.context() as patch:
            real = milepost.Checkpointer._session.fget.__globals__["Session"]._save  # type: ignore[attr-defined]

            def save(self: Any, position: Any, *args: Any, real: Any = real, **options: Any) -> Any:
                saved.add(position.step)
                return real(self, position, *args, **options)

            patch.setattr("milepost.training.session.Session._save", save)
            with start(folder, every=every) as run:
                for _ in run.epochs(4):
                    for _ in run.batches(range(5)):
                        run.step(w=run["w"] + 1)
                        if attempt < len(kill) and run.progress.step == kill[attempt]:
                            break
                    else:
                        run.epoch_end()
                        continue
                    run.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
                    break
    return sorted(saved)


POLICIES: dict[str, tuple[Any, list[int]]] = {
    "none": (None, [20]),
    "steps": (milepost.Every(steps=6), [6, 12, 18, 20]),
    "epochs": (milepost.Every(epochs=2), [10, 20]),
    "seconds": (milepost.Every(seconds=3600), [20]),
    "callable": (lambda progress: progress.step in (3, 17), [3, 17, 20]),
    "any": (
        milepost.Every(steps=8) | milepost.Every(epochs=3) | (lambda progress: progress.step == 2),
        [2, 8, 15, 16, 20],
    ),
    "auto": (milepost.Every.auto(mtbf="12h"), [20]),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policies(name: str, folder: Path) -> None:
    every, expected = POLICIES[name]
    assert visited(folder, every) == expected


@pytest.mark.parametrize("name", ["steps", "epochs", "any"])
def test_after_a_restart_saves_fall_on_the_same_steps(name: str, folder: Path) -> None:
    every, expected = POLICIES[name]
    assert visited(folder, every, kill=(9, 13, 19)) == expected


def test_retention_over_restarts(folder: Path) -> None:
    options: dict[str, Any] = {"every": milepost.Every(steps=1), "keep": milepost.Keep(last=2, every_steps=4)}
    for to in (3, 6, 11):
        with start(folder, **options) as run:
            for _ in run.steps(to):
                run.step(w=run["w"] + 1)
    assert steps(folder) == [4, 8, 10, 11]


def test_output_on_a_plain_stream(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def script(how: Callable[[], None]) -> None:
        with start(folder, progress=None) as run:
            for _ in run.steps(3):
                run.step(w=run["w"] + 1, loss=0.5)
                how()

    script(lambda: None)
    assert "starts from the beginning" in capsys.readouterr().err
    script(lambda: sys.exit("not reached: the run is complete"))
    said = capsys.readouterr()
    assert "continues from step 3" in said.err
    assert "this run was complete" in said.err
    assert said.out == ""
