"""Signals: the state is saved at the next moment at which that is right, and the restart goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_jobs import (
    Trial,
    backward,
    check_same,
    folder_fixture,  # noqa: F401
    loader,
    network,
    one_thread,  # noqa: F401
    simple,
)

import milepost

NEVER = {"every": None}


def send(*numbers: signal.Signals) -> Callable[[], None]:
    def kill() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return kill


def validated(trial: Trial, *, scheduler_first: bool = False, average: bool = False, swap: bool = False) -> None:
    """A script with a validation loader, and what scripts do between the last batch and validation."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    train = simple(model, optimizer)
    data, unseen = loader(), loader()
    with trial.open(model=model, optimizer=optimizer, scheduler=scheduler, averaged=averaged) as run:
        for _ in run.epochs(3):
            for batch in run.batches(data):
                trial("asked")
                loss = train(batch)
                trial("trained")
                trial.lost(loss)
                run.step(loss=loss)
                trial("stepped")
            trial("looped")
            if scheduler_first:
                scheduler.step()
                run.vars["epochs"] = run.vars.get("epochs", 0) + 1
            if average:
                averaged.update_parameters(model)
            weights = [parameter.detach().clone() for parameter in model.parameters()]
            if swap:
                for mine, other in zip(model.parameters(), averaged.module.parameters(), strict=True):
                    mine.data.copy_(other.data)
            run.vars["sum"] = 0.0
            for inputs, classes in run.batches(unseen, train=False):
                trial("validating")
                with torch.no_grad():
                    run.vars["sum"] += float(torch.nn.functional.cross_entropy(model(inputs + torch.randn(1)), classes))
            if swap:
                for mine, kept in zip(model.parameters(), weights, strict=True):
                    mine.data.copy_(kept)
            trial("validated")
            run.epoch_end(val_loss=run.vars["sum"])
            trial("epoch ended")
            if not scheduler_first:
                scheduler.step()
            trial("went on")


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scheduler before validation": {"scheduler_first": True},
    "weights swapped for validation": {"swap": True},
    "weights averaged before validation": {"average": True},
    "all of it": {"scheduler_first": True, "average": True, "swap": True},
}
POINTS = [
    ("asked", 1), ("asked", 5), ("trained", 7), ("stepped", 7), ("looped", 1), ("validating", 1), ("validating", 4),
    ("validating", 7), ("validated", 1), ("epoch ended", 1), ("went on", 1), ("validating", 12), ("validating", 21),
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_signal_anywhere(variant: str, folder: Path) -> None:
    def script(trial: Trial) -> None:
        validated(trial, **VARIANTS[variant])

    right = Trial().play(script)
    for number, (point, times) in enumerate(POINTS):
        directory = folder / f"{point}-{times}"
        name = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)[number % 3]
        first = Trial(directory, (point, times), send(name), **NEVER)
        first.play(script)
        where = f"{name.name} at {point!r}, time {times}"
        assert isinstance(first.end, milepost.Stopped), where
        assert first.end.code == milepost.STOPPED == 75
        assert first.end.signal == name.name
        second = Trial(directory, **NEVER).play(script)
        assert signal.getsignal(name) is signal.SIG_DFL, "after a clean end the handlers are put back"
        check_same(second.facts, right.facts, where)
        assert first.losses | second.losses == right.losses, where
        assert not first.losses.keys() & second.losses.keys(), f"{where}: a step was done twice"


def test_during_validation_it_does_not_wait_for_its_end(folder: Path) -> None:
    first = Trial(folder, ("validating", 2), send(signal.SIGTERM), **NEVER)
    first.play(lambda trial: validated(trial, scheduler_first=True))
    assert first.passed["validating"] == 2
    second = Trial(folder, **NEVER)
    second.play(lambda trial: validated(trial, scheduler_first=True))
    assert second.passed["validating"] == 3 * 7, "all of it is validated again"


def test_with_other_weights_in_the_model_it_does(folder: Path) -> None:
    first = Trial(folder, ("validating", 2), send(signal.SIGTERM), **NEVER)
    first.play(lambda trial: validated(trial, average=True, swap=True))
    assert first.passed["validating"] == 7


def test_storms_and_mixes_are_one_signal(folder: Path) -> None:
    storm = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM] * 50
    right = Trial().play(validated)
    first = Trial(folder, ("trained", 4), send(*storm), **NEVER)
    first.play(validated)
    assert isinstance(first.end, milepost.Stopped)
    assert first.end.signal == "SIGTERM"
    assert [one.name for one in folder.glob("step-*")] == ["step-00000004"]
    check_same(Trial(folder, **NEVER).play(validated).facts, right.facts)


def test_before_the_first_batch(folder: Path) -> None:
    right = Trial().play(validated)

    def early(trial: Trial) -> None:
        model = network()
        with trial.open(model=model, optimizer=torch.optim.SGD(model.parameters())) as run:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in run.epochs(3):
                for _ in run.batches(loader()):
                    raise AssertionError("no batch is trained on after a signal")

    first = Trial(folder, **NEVER)
    first.play(early)
    assert isinstance(first.end, milepost.Stopped)
    assert not list(folder.glob("step-*")), "nothing had been done, so there is nothing to save"
    check_same(Trial(folder, **NEVER).play(validated).facts, right.facts)


def test_micro_batches_are_finished_first(folder: Path) -> None:
    def script(trial: Trial) -> None:
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        with trial.open(model=model, optimizer=optimizer) as run:
            for _ in run.epochs(2):
                for number, batch in enumerate(run.batches(loader()), run.progress.batch):
                    loss = backward(model, batch)
                    if number % 4 == 3:
                        optimizer.step()
                        optimizer.zero_grad()
                    trial.lost(loss)
                    run.step()

    right = Trial().play(script)
    for times, batches in ((1, 4), (4, 4), (5, 7), (8, 7 + 4), (12, 14)):
        first = Trial(folder / str(times), ("lost", times), send(signal.SIGUSR1), **NEVER).play(script)
        assert len(first.seen) == batches, "a step, or the end of the pass, is the next moment"
        check_same(Trial(folder / str(times), **NEVER).play(script).facts, right.facts)


@pytest.mark.parametrize("on_busy", ["wait", "skip"])
def test_a_save_in_flight_does_not_stand_in_for_the_last_one(
    on_busy: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from milepost.folder.commit import Committer

    slow = Committer.commit
    monkeypatch.setattr(Committer, "commit", lambda *args: (threading.Event().wait(0.3), slow(*args))[1])

    def script(trial: Trial) -> None:
        with trial.open(w=np.zeros(2)) as run:
            w = run["w"]
            for _ in run.steps(6):
                w = w + 1
                run.step(w=w)
                trial("stepped")

    options = {"every": milepost.Every(steps=1), "on_busy": on_busy}
    first = Trial(folder, ("stepped", 3), send(signal.SIGTERM), **options)
    first.play(script)
    assert sorted(one.name for one in folder.glob("step-*"))[-1] == "step-00000003"
    second = Trial(folder, **options).play(script)
    assert sorted(one.name for one in folder.glob("step-*"))[-1] == "step-00000006"
    assert np.array_equal(second.run["w"], np.full(2, 6.0))


def test_chosen_signals_only(folder: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        first = Trial(folder, ("trained", 3), send(signal.SIGUSR2), signals=[signal.SIGUSR1], **NEVER)
        first.play(validated)
        assert first.end is None
        assert heard == [signal.SIGUSR2]
        assert first.run.progress.step == 21
    finally:
        signal.signal(signal.SIGUSR2, before)
