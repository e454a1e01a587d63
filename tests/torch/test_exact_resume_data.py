"""Through a `Checkpointer`, with workers that augment: any number of them before the kill and after it, the same bits."""

from __future__ import annotations

import random
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
    network,
    one_thread,  # noqa: F401
    script_of,
    simple,
)
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler

import milepost
from milepost.errors import LoaderError


class Augmented(Dataset[Any]):
    """Draws from every generator that augmentations draw from."""

    def __init__(self, length: int = 27) -> None:
        self.length, self.own = length, np.random.default_rng(3)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        shift = random.random() + np.random.normal() + self.own.normal()
        return torch.randn(8) * 0.1 + index + shift, index % 2


def job(**options: Any) -> Job:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = DataLoader(Augmented(), **{"batch_size": 4, "shuffle": True, **options})
    return Job({"model": model, "optimizer": optimizer}, simple(model, optimizer), data=data)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
@pytest.mark.parametrize("persistent", [False, True])
def test_augmenting_workers(before: int, after: int, persistent: bool, folder: Path) -> None:
    def script(workers: int) -> Any:
        keep = persistent and workers > 0
        return script_of(lambda: job(num_workers=workers, persistent_workers=keep), epochs=2)

    right = Trial(folder / "whole").play(script(0))
    for point in (("trained", 6), ("looped", 1), ("stepped", 10)):
        directory = folder / f"{point[0]}-{point[1]}"
        first = Trial(directory, point).play(script(before))
        second = Trial(directory).play(script(after))
        check_same(second.facts, right.facts, f"killed at {point}")
        assert first.losses | second.losses == right.losses
        assert len(second.seen) < len(right.seen)


def test_nothing_that_was_done_is_loaded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    real = Augmented.__getitem__
    monkeypatch.setattr(Augmented, "__getitem__", lambda self, index: (loaded.append(index), real(self, index))[1])
    script = script_of(job, epochs=1)
    Trial(folder, ("trained", 5)).play(script)
    loaded.clear()
    second = Trial(folder).play(script)
    assert len(second.seen) == 3  # of seven batches, four are saved
    assert len(loaded) == len(set(loaded)) == 11


def test_drop_last_and_samplers(folder: Path) -> None:
    def sampled() -> Job:
        order = RandomSampler(range(27), generator=torch.Generator().manual_seed(2))
        made = job()
        made.data = DataLoader(Augmented(), batch_sampler=BatchSampler(order, 5, drop_last=True))
        return made

    right = Trial(folder / "whole").play(script_of(sampled))
    for point in (("trained", 4), ("epoch ended", 1), ("trained", 9)):
        directory = folder / f"{point[0]}-{point[1]}"
        Trial(directory, point).play(script_of(sampled))
        check_same(Trial(directory).play(script_of(sampled)).facts, right.facts, str(point))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"batch_size": 5}, "batch size"),
        ({"dataset": Augmented(26)}, "dataset length"),
        ({"shuffle": False}, "sampler"),
        ({"drop_last": True}, "drop last"),
    ],
)
def test_another_loader_than_before_is_refused(changed: dict[str, Any], named: str, folder: Path) -> None:
    Trial(folder, ("trained", 5)).play(script_of(job))

    def other() -> Job:
        made = job()
        made.data = DataLoader(**{"dataset": Augmented(), "batch_size": 4, "shuffle": True, **changed})
        return made

    with pytest.raises(LoaderError, match=named) as caught:
        Trial(folder).play(script_of(other))
    assert caught.value.expected != caught.value.found
    assert caught.value.hint


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        for number in range(10):
            yield torch.full((8,), number / 10) + torch.randn(8) * 0.1, number % 2


def test_a_stream_is_refused_or_replayed(folder: Path) -> None:
    def script(trial: Trial, **how: Any) -> None:
        model = nn.Linear(8, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train = simple(model, optimizer)
        with trial.open(model=model, optimizer=optimizer) as run:
            for _ in run.epochs(2):
                for batch in run.batches(DataLoader(Stream(), batch_size=2), **how):
                    trial.lost(train(batch))
                    run.step()

    with pytest.raises(LoaderError, match="replay=True"):
        Trial(folder / "refused").play(script)
    replayed = lambda trial: script(trial, replay=True)  # noqa: E731
    right = Trial(folder / "whole").play(replayed)
    Trial(folder / "killed", ("lost", 4)).play(replayed)
    second = Trial(folder / "killed").play(replayed)
    check_same(second.facts, right.facts)
    assert second.seen == list(range(3, 11))


def test_data_read_from_another_name_than_before_is_refused(folder: Path) -> None:
    def script(trial: Trial, name: str) -> None:
        made = job()
        with trial.open(**made.items) as run:
            for batch in run.batches(made.data, name=name):
                trial.lost(made.train(batch))
                run.step()

    Trial(folder, ("lost", 4), every=milepost.Every(steps=1)).play(lambda trial: script(trial, "one"))
    with pytest.raises(LoaderError, match="'one'"):
        Trial(folder).play(lambda trial: script(trial, "other"))
