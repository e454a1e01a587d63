"""Whatever the loops of a script look like, it continues where it stopped, and ends with the very bits of plain PyTorch."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_jobs import (
    Trial,
    backward,
    check_exact,
    check_same,
    folder_fixture,  # noqa: F401
    loader,
    network,
    one_thread,  # noqa: F401
    simple,
)

import milepost

SCRIPTS: dict[str, tuple[Callable[[Trial], None], list[tuple[str, int]]]] = {}
Script = Callable[[Trial], None]


def script(*points: tuple[str, int]) -> Callable[[Script], Script]:
    def note(one: Script) -> Script:
        SCRIPTS[one.__name__] = one, list(points)
        return one

    return note


def parts() -> tuple[dict[str, Any], Callable[[Any], torch.Tensor]]:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return {"model": model, "optimizer": optimizer}, simple(model, optimizer)


def batch_of_noise() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 8), torch.randint(0, 2, (4,))


@script(("trained", 5), ("stepped", 8))
def steps_without_a_loader(trial: Trial) -> None:
    items, train = parts()
    with trial.open(**items) as run:
        for _ in run.steps(12):
            loss = train(batch_of_noise())
            trial("trained")
            trial.lost(loss)
            run.step(loss=loss)
            trial("stepped")


@script(("trained", 5), ("stepped", 8))
def no_loop_of_milepost(trial: Trial) -> None:
    items, train = parts()
    with trial.open(**items) as run:
        while run.progress.step < 12:
            loss = train(batch_of_noise())
            trial("trained")
            trial.lost(loss)
            run.step(loss=loss)
            trial("stepped")


@script(("stepped", 5), ("stepped", 7), ("epoch ended", 1), ("stepped", 9))
def epochs_counted_by_hand(trial: Trial) -> None:
    items, train = parts()
    data = loader()
    with trial.open(**items) as run:
        for epoch in range(run.progress.epoch, 3):
            for batch in run.batches(data):
                loss = train(batch)
                trial.lost(loss)
                run.step(loss=loss)
                trial("stepped")
            run.epoch_end(epoch=epoch)
            trial("epoch ended")


@script(("stepped", 5), ("looped", 1), ("stepped", 10))
def random_numbers_on_the_way(trial: Trial) -> None:
    items, train = parts()
    data = loader()
    with trial.open(**items) as run:
        torch.randn(3)  # whatever the script draws before it reaches the loop, it draws again after a restart
        for _ in run.epochs(3):
            torch.randn(2)
            for batch in run.batches(data):
                trial.lost(train(batch))
                run.step()
                trial("stepped")
            trial("looped")


@script(("stepped", 5))
def a_single_pass(trial: Trial) -> None:
    items, train = parts()
    with trial.open(**items) as run:
        for batch in run.batches(loader()):
            loss = train(batch)
            trial.lost(loss)
            run.step()
            trial("stepped")


@script(("stepped", 3), ("stepped", 5), ("stepped", 6), ("looped", 1), ("stepped", 8))
def two_loaders_zipped(trial: Trial) -> None:
    items, train = parts()
    first, second = loader(), loader(batch_size=5)  # 7 and 6 batches
    with trial.open(**items) as run:
        for _ in run.epochs(3):
            for one, other in zip(run.batches(first, name="first"), run.batches(second, name="second"), strict=False):
                loss = train(one) + train(other)
                trial.lost(loss)
                run.step()
                trial("stepped")
            trial("looped")


@script(("stepped", 3), ("stepped", 7), ("looped", 1), ("stepped", 9), ("stepped", 13))
def two_loaders_one_after_the_other(trial: Trial) -> None:
    items, train = parts()
    first, second = loader(), loader(batch_size=5)
    with trial.open(**items) as run:
        for _ in run.epochs(2):
            for name, data in (("first", first), ("second", second)):
                for batch in run.batches(data, name=name):
                    loss = train(batch)
                    trial.lost(loss)
                    run.step()
                    trial("stepped")
                trial("looped")


@script(("inner", 2), ("inner", 5), ("outer", 2), ("inner", 16), ("inner", 21), ("epoch", 1))
def a_loader_inside_a_batch_of_another(trial: Trial) -> None:
    items, train = parts()
    outer, inner = loader(), loader(batch_size=9)  # 7 batches with 3 each
    with trial.open(**items) as run:
        for _ in run.epochs(2):
            for batch in run.batches(outer, name="outer"):
                for one in run.batches(inner, name="inner"):
                    loss = train((batch[0][:3].mean(0) + one[0], one[1]))
                    trial.lost(loss)
                    run.step()
                    trial("inner")
                trial("outer")
            trial("epoch")


@script(("inner", 2), ("outer", 2), ("inner", 7), ("outer", 7))
def an_outer_loader_that_steps_too(trial: Trial) -> None:
    items, train = parts()
    outer, inner = loader(), loader(batch_size=14)
    with trial.open(**items) as run:
        for _ in run.epochs(2):
            for batch in run.batches(outer, name="outer"):
                for one in run.batches(inner, name="inner"):
                    loss = train(one)
                    trial.lost(loss)
                    run.step()
                    trial("inner")
                loss = train(batch)
                trial.lost(loss)
                run.step()
                trial("outer")


@script(("outer", 2), ("inner", 3), ("inner", 4), ("inner", 14), ("outer", 9))
def an_outer_loader_that_steps_first(trial: Trial) -> None:
    items, train = parts()
    outer, inner = loader(), loader(batch_size=14)
    with trial.open(**items) as run:
        for _ in run.epochs(2):
            for batch in run.batches(outer, name="outer"):
                loss = train(batch)
                trial.lost(loss)
                run.step()
                trial("outer")
                for one in run.batches(inner, name="inner"):
                    loss = train(one)
                    trial.lost(loss)
                    run.step()
                    trial("inner")


@script(("inner", 3), ("inner", 4), ("inner", 9))
def an_outer_step_that_is_not_counted(trial: Trial) -> None:
    items, train = parts()
    outer, inner = loader(), loader(batch_size=14)
    with trial.open(**items) as run:
        for batch in run.batches(outer, name="outer"):
            train(batch)
            for one in run.batches(inner, name="inner"):
                loss = train(one)
                trial.lost(loss)
                run.step()
                trial("inner")


@script(("middle", 2), ("inner", 4), ("inner", 5), ("inner", 10), ("middle", 6))
def three_loaders_of_which_the_middle_one_steps_first(trial: Trial) -> None:
    items, train = parts()
    outer, middle, inner = loader(batch_size=14), loader(batch_size=14), loader(batch_size=14)  # 2 batches each
    with trial.open(**items) as run:
        for _ in run.epochs(2):
            for _ in run.batches(outer, name="outer"):
                for batch in run.batches(middle, name="middle"):
                    loss = train(batch)
                    trial.lost(loss)
                    run.step()
                    trial("middle")
                    for one in run.batches(inner, name="inner"):
                        loss = train(one)
                        trial.lost(loss)
                        run.step()
                        trial("inner")


@script(("first", 3), ("second", 3), ("first", 6), ("second", 6))
def two_loaders_in_turn_with_a_step_each(trial: Trial) -> None:
    items, train = parts()
    first, second = loader(), loader(batch_size=5)  # 7 and 6 batches
    with trial.open(**items) as run:
        for _ in run.epochs(2):
            others = iter(run.batches(second, name="second"))
            for batch in run.batches(first, name="first"):
                loss = train(batch)
                trial.lost(loss)
                run.step()
                trial("first")
                other = next(others, None)
                if other is not None:
                    loss = train(other)
                    trial.lost(loss)
                    run.step()
                    trial("second")


@script(("stepped", 3), ("stepped", 4), ("stepped", 7), ("stepped", 12))
def a_batch_that_is_fetched_ahead(trial: Trial) -> None:
    items, train = parts()
    first, second = loader(), loader(batch_size=3)  # 7 and 9 batches
    with trial.open(**items) as run:
        for _ in run.epochs(2):
            others = iter(run.batches(second, name="second"))
            other = next(others)
            for batch in run.batches(first, name="first"):
                loss = train((batch[0] + other[0][:1], batch[1]))
                trial.lost(loss)
                run.step()
                trial("stepped")
                other = next(others)


@script(("inner", 3), ("inner", 4), ("outer", 4))
def saves_by_hand_inside_an_outer_batch_with_a_step(trial: Trial) -> None:
    items, train = parts()
    outer, inner = loader(), loader(batch_size=14)
    with trial.open(**items) as run:
        for batch in run.batches(outer, name="outer"):
            loss = train(batch)
            trial.lost(loss)
            run.step()
            trial("outer")
            for one in run.batches(inner, name="inner"):
                loss = train(one)
                trial.lost(loss)
                run.step()
                run.save()
                trial("inner")


@script(("later", 1), ("later", 2), ("inner", 4), ("later", 5))
def a_loop_left_early_with_another_inside_it(trial: Trial) -> None:
    items, train = parts()
    outer, inner, later = loader(), loader(batch_size=14), loader(batch_size=9)
    with trial.open(**items) as run:
        for _ in run.epochs(3):
            for _ in run.batches(outer, name="outer"):
                for batch in run.batches(inner, name="inner"):
                    loss = train(batch)
                    trial.lost(loss)
                    run.step()
                    trial("inner")
                break
            for batch in run.batches(later, name="later"):
                loss = train(batch)
                trial.lost(loss)
                run.step()
                trial("later")


@script(("before", 2), ("between", 1), ("after", 1), ("before", 3), ("after", 3))
def an_epoch_with_a_step_between_its_loops(trial: Trial) -> None:
    items, train = parts()
    before, after = loader(batch_size=14), loader(batch_size=27)  # 2 batches and 1

    def step(batch: Any, point: str) -> None:
        loss = train(batch)
        trial.lost(loss)
        run.step()
        trial(point)

    with trial.open(**items) as run:
        for _ in run.epochs(3):
            for batch in run.batches(before, name="before"):
                step(batch, "before")
            step(batch_of_noise(), "between")
            for batch in run.batches(after, name="after"):
                step(batch, "after")


@script(("stepped", 3), ("stepped", 5), ("epoch", 1), ("stepped", 8))
def an_epoch_that_is_left_early(trial: Trial) -> None:
    items, train = parts()
    data = loader()
    with trial.open(**items) as run:
        for _ in run.epochs(3):
            for number, batch in enumerate(run.batches(data), run.vars.pop("number", 0)):
                loss = train(batch)
                trial.lost(loss)
                run.vars["number"] = number + 1
                run.step()
                trial("stepped")
                if number == 4:
                    break
            run.vars.pop("number")
            trial("epoch")


@script(("stepped", 3), ("stepped", 5), ("stepped", 8))
def an_epoch_of_five_batches(trial: Trial) -> None:
    items, train = parts()
    data = loader()
    with trial.open(**items) as run:
        for _ in run.epochs(3):
            for batch in itertools.islice(run.batches(data), 5 - run.progress.batch):
                loss = train(batch)
                trial.lost(loss)
                run.step()
                trial("stepped")


@script(("stepped", 3), ("stepped", 7), ("epoch", 1), ("stepped", 10), ("stepped", 12))
def an_endless_loader_across_epochs(trial: Trial) -> None:
    items, train = parts()
    labelled, other = loader(), loader(batch_size=6)  # 7 and 5 batches

    def endless() -> Iterator[Any]:
        while True:
            yield from run.batches(other, name="other")

    with trial.open(**items) as run:
        more = endless()
        for _ in run.epochs(3):
            for batch in run.batches(labelled):
                inputs, classes = next(more)
                loss = train((inputs + batch[0][:1], classes))
                trial.lost(loss)
                run.step()
                trial("stepped")
            trial("epoch")


@script(("step", 2), ("step", 3), ("rest", 1), ("epoch", 1), ("step", 5), ("rest", 2))
def gathered_gradients_and_a_step_for_the_rest(trial: Trial) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = loader()
    with trial.open(model=model, optimizer=optimizer) as run:

        def step(loss: torch.Tensor) -> None:
            optimizer.step()
            optimizer.zero_grad()
            trial.lost(loss)
            run.step()

        for _ in run.epochs(3):
            for number, batch in enumerate(run.batches(data), run.progress.batch):
                loss = backward(model, batch)
                if number % 2:
                    step(loss)
                    trial("step")
            step(torch.zeros(()))  # seven batches: one is left
            trial("rest")
            trial("epoch")


@script(("validating", 3), ("validated", 1), ("stepped", 9), ("validating", 6))
def a_validation_loader(trial: Trial) -> None:
    items, train = parts()
    data, unseen = loader(), loader(shuffle=True)
    with trial.open(**items) as run:
        for _ in run.epochs(3):
            for batch in run.batches(data):
                loss = train(batch)
                trial.lost(loss)
                run.step()
                trial("stepped")
            losses = []
            for inputs, classes in run.batches(unseen, train=False):
                with torch.no_grad():
                    losses.append(torch.nn.functional.cross_entropy(items["model"](inputs), classes))
                trial("validating")
            trial("validated")
            run.epoch_end(val_loss=torch.stack(losses).mean())


@script(("saved", 1), ("saved", 2), ("stepped", 6), ("stepped", 12))
def saves_by_hand(trial: Trial) -> None:
    items, train = parts()
    data = loader()
    with trial.open(**items) as run:
        for _ in run.epochs(2):
            for number, batch in enumerate(run.batches(data)):
                loss = train(batch)
                trial.lost(loss)
                run.step()
                trial("stepped")
                if number % 3 == 1:
                    run.save()
                    run.wait()
                    trial("saved")


@script(("saved", 1), ("stepped", 4), ("saved", 2), ("saved", 3))
def saves_by_hand_in_numbered_batches(trial: Trial) -> None:
    items, train = parts()
    data = loader()
    with trial.open(**items) as run:
        for _ in run.epochs(3):
            for number, batch in enumerate(run.batches(data), run.progress.batch):
                loss = train(batch)
                trial.lost(loss)
                if number == 1:
                    run.save()  # the step is not counted yet: it waits
                run.step()
                trial("stepped")
                if number == 2:
                    run.save()
                    run.wait()
                    trial("saved")
                if number == 4:
                    break


@script(("batch", 4), ("batch", 5), ("epoch", 2), ("batch", 8))
def gathered_gradients_that_outlive_an_epoch_that_is_left_early(trial: Trial) -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = loader()
    with trial.open(model=model, optimizer=optimizer) as run:
        for _ in run.epochs(3):
            for number, batch in enumerate(run.batches(data), run.progress.batch):
                trial.lost(backward(model, batch))
                if number % 2:
                    optimizer.step()
                    optimizer.zero_grad()
                    run.step()
                trial("batch")
                if number == 2:  # one batch is gathered
                    break
            trial("epoch")


@script(("stepped", 3), ("more", 2), ("stepped", 13), ("more", 4))
def parameters_that_join_later(trial: Trial) -> None:
    model = network()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    train = simple(model, optimizer)
    data = loader()
    # A restart has to make the optimizer as it was: the script asks what it continues.
    joined = trial.directory is not None and any(trial.directory.glob("step-*")) and milepost.open(trial.directory)
    if joined and len(joined.plain.keys() & {"optimizer/param_groups/1/lr"}):
        optimizer.add_param_group({"params": model[3].parameters(), "lr": 0.05})
    with trial.open(model=model, optimizer=optimizer) as run:
        for _ in run.epochs(3):
            for batch in run.batches(data):
                loss = train(batch)
                trial.lost(loss)
                run.step()
                trial("stepped")
                if run.progress.step == 10:
                    optimizer.add_param_group({"params": model[3].parameters(), "lr": 0.05})
                if run.progress.step >= 10:
                    trial("more")


@pytest.mark.parametrize("name", SCRIPTS)
def test_killed_and_started_again_it_ends_the_same(name: str, folder: Path) -> None:
    script, points = SCRIPTS[name]
    check_exact(script, folder, points, every=milepost.Every(steps=1))


@pytest.mark.parametrize("name", SCRIPTS)
def test_killed_again_and_again_it_ends_the_same(name: str, folder: Path) -> None:
    script, _ = SCRIPTS[name]
    right = Trial(folder / "whole").play(script)
    for _ in range(len(right.seen)):
        trial = Trial(folder / "run", ("lost", 4))  # saves come every two steps
        attempt = trial.play(script)
        assert attempt.losses == {at: right.losses[at] for at in attempt.losses}
        if trial.end is None:
            break
    check_same(attempt.facts, right.facts)


class Signalling(torch.utils.data.TensorDataset):
    """Sends a signal to its process when it is read for the n-th time."""

    left = -1

    def __getitem__(self, index: int) -> Any:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)


def test_a_signal_while_the_first_of_two_zipped_loaders_loads_is_answered_after_the_step(folder: Path) -> None:
    signals = Signalling(*loader().dataset.tensors)

    def script(trial: Trial) -> None:
        items, train = parts()
        first, second = torch.utils.data.DataLoader(signals, batch_size=4, shuffle=True), loader()
        with trial.open(**items) as run:
            for _ in run.epochs(2):
                for one, other in zip(run.batches(first), run.batches(second, name="second"), strict=True):
                    trial.lost(train(one) + train(other))
                    run.step()

    right = Trial().play(script)
    signals.left = 29  # the first batch of the second epoch
    stopped = Trial(folder / "run")
    attempt = stopped.play(script)
    assert isinstance(stopped.end, milepost.Stopped)
    assert attempt.run.progress.step == 8
    check_same(Trial(folder / "run").play(script).facts, right.facts)
