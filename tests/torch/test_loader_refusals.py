"""A pass that cannot be continued exactly is refused, in words that say what differs and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from loader_data import Drawing, Everything, drain, plain, seed_everything
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
)

from milepost.errors import LoaderError, MismatchError
from milepost.training.feeds import feed_for

Loader = Callable[[], Any]


def _items(length: int = 12) -> TensorDataset:
    return TensorDataset(torch.arange(length))


def _position(loader: Any, done: int = 2) -> dict[str, object]:
    feed = feed_for(loader)
    feed.begin(None)
    for _ in range(max(done, 1)):  # with none done the first one is in progress
        feed.next()
    position = feed.position(done)
    feed.close()
    return position


def _refused(position: dict[str, object], loader: Any) -> LoaderError:
    with pytest.raises(LoaderError) as caught:
        feed_for(loader).begin(position)
    error = caught.value
    assert error.where
    assert error.hint
    return error


@pytest.mark.parametrize(
    ("loader", "saved", "here"),
    [
        (lambda: DataLoader(_items(13), 3, shuffle=True), "dataset length 12", "dataset length 13"),
        (lambda: DataLoader(_items(), 4, shuffle=True), "batch size 3", "batch size 4"),
        (lambda: DataLoader(_items(), 3, shuffle=True, drop_last=True), "drop last False", "drop last True"),
        (lambda: DataLoader(_items(), 3), "sampler BatchSampler of RandomSampler",
         "sampler BatchSampler of SequentialSampler"),
        (lambda: DataLoader(_items(), 3, shuffle=True, generator=torch.Generator()),
         "generators of the sampler []", "generators of the sampler ['generator']"),
        (lambda: [1, 2, 3], "feed map-style", "feed sequence"),
    ],
)  # fmt: skip
def test_another_loader(loader: Loader, saved: str, here: str) -> None:
    position = _position(DataLoader(_items(), 3, shuffle=True))
    error = _refused(position, loader())
    assert saved in str(error.expected)
    assert here in str(error.found)


def test_all_differences_are_listed_at_once() -> None:
    error = _refused(_position(DataLoader(_items(), 3)), DataLoader(_items(20), 5))
    assert error.expected == "dataset length 12, batch size 3"
    assert error.found == "dataset length 20, batch size 5"


def test_batch_size_of_a_batch_sampler() -> None:
    class Sized(Sampler[list[int]]):
        def __init__(self, batch_size: int) -> None:
            self.batch_size = batch_size

        def __iter__(self) -> Iterator[list[int]]:
            return iter([[0] * self.batch_size] * 5)

    error = _refused(
        _position(DataLoader(_items(), batch_sampler=Sized(2))), DataLoader(_items(), batch_sampler=Sized(3))
    )
    assert error.found == "batch size 3"


def test_an_epoch_that_was_not_set() -> None:
    def loader(epoch: int) -> DataLoader[Any]:
        sampler = DistributedSampler(_items(), num_replicas=2, rank=0)
        sampler.set_epoch(epoch)
        return DataLoader(_items(), 2, sampler=sampler)

    position = _position(loader(3))
    error = _refused(position, loader(0))
    assert error.expected == "epoch of the sampler [3]"
    assert "set_epoch" in str(error.hint)
    feed_for(loader(3)).begin(position)


@pytest.mark.parametrize("end", ["left", "over"])
def test_the_epoch_of_a_pass_that_is_over_does_not_matter(end: str) -> None:
    def loader(epoch: int) -> DataLoader[Any]:
        sampler = DistributedSampler(_items(), num_replicas=2, rank=0)
        sampler.set_epoch(epoch)
        return DataLoader(_items(), 2, sampler=sampler)

    feed = feed_for(loader(0))
    feed.begin(None)
    done = 1
    feed.next()
    if end == "over":
        done += len(list(drain(feed)))
    feed.close()
    again = feed_for(loader(1))
    again.begin(feed.position(done))
    assert list(drain(again)) == []
    again.begin(None)
    assert [plain(batch) for batch in drain(again)] == [plain(batch) for batch in loader(1)]


def _entropy() -> float:
    return int.from_bytes(os.urandom(4), "big") / 2**32


class CountsItsPasses(Sampler[int]):
    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(np.random.default_rng(self.epoch).permutation(12).tolist())


class ShortAfterTheFirst(Sampler[int]):
    length = 12

    def __iter__(self) -> Iterator[int]:
        order = range(self.length)
        self.length = 3
        return iter(order)


@pytest.mark.parametrize("done", [0, 1, 3])
def test_samplers_that_draw_from_elsewhere(done: int) -> None:
    position = _position(DataLoader(_items(17), 4, sampler=Drawing(_entropy)), done)
    error = _refused(position, DataLoader(_items(17), 4, sampler=Drawing(_entropy)))
    assert "BatchSampler of Drawing gives other indices" in error.message


def test_samplers_that_count_their_passes() -> None:
    loader = DataLoader(_items(), 3, sampler=CountsItsPasses())
    feed = feed_for(loader)
    feed.begin(None)
    list(drain(feed))
    feed.begin(None)
    feed.next()
    error = _refused(feed.position(1), DataLoader(_items(), 3, sampler=CountsItsPasses()))
    assert "set_epoch" in str(error.hint)


def test_samplers_that_end_before_the_saved_position() -> None:
    sampler = ShortAfterTheFirst()
    position = _position(DataLoader(_items(), 3, sampler=sampler), 3)
    error = _refused(position, DataLoader(_items(), 3, sampler=sampler))
    assert error.found == "an end after 1"


def test_a_sampler_over_other_indices() -> None:
    position = _position(DataLoader(_items(), 2, sampler=SubsetRandomSampler([1, 2, 3, 4, 5])))
    _refused(position, DataLoader(_items(), 2, sampler=SubsetRandomSampler([6, 7, 8, 9, 10])))


def test_a_refused_position_leaves_the_random_state_and_the_feed_usable() -> None:
    position = _position(DataLoader(_items(), 2, sampler=SubsetRandomSampler([1, 2, 3, 4, 5])))
    feed = feed_for(DataLoader(_items(), 2, sampler=SubsetRandomSampler([6, 7, 8, 9, 10])))
    seed_everything(99)
    state = torch.get_rng_state()
    with pytest.raises(LoaderError):
        feed.begin(position)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(drain(feed)) == []
    feed.begin(None)
    assert len(list(drain(feed))) == 3


def test_a_generator_of_another_kind() -> None:
    class Holding(Sampler[int]):
        def __init__(self, rng: object) -> None:
            self.rng = rng

        def __iter__(self) -> Iterator[int]:
            return iter(range(12))

    position = _position(DataLoader(_items(), 3, sampler=Holding(np.random.default_rng(0))))
    with pytest.raises(MismatchError, match=r"sampler\.sampler\.rng"):
        feed_for(DataLoader(_items(), 3, sampler=Holding(torch.Generator()))).begin(position)


def test_no_position_before_a_pass() -> None:
    with pytest.raises(LoaderError, match="no pass has begun"):
        feed_for(DataLoader(_items(), 3)).position(0)


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(6))


class OwnIter(DataLoader[Any]):
    def __iter__(self) -> Any:
        return super().__iter__()


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (lambda: DataLoader(Stream(), 2), "Stream is an IterableDataset"),
        (lambda: DataLoader(Stream(), 2, num_workers=2), "Stream is an IterableDataset"),
        (lambda: OwnIter(_items(), 2), "__iter__ of its own"),
        (lambda: Stream(), "its iterator has no position"),
    ],
)
def test_iterables_need_replay(loader: Loader, why: str) -> None:
    with pytest.raises(LoaderError, match="cannot continue in the middle") as caught:
        feed_for(loader())
    assert why in caught.value.message
    assert "replay=True" in str(caught.value.hint)
    assert feed_for(loader(), replay=True).notes


def test_notes_say_what_is_not_as_asked() -> None:
    assert feed_for(DataLoader(Everything(), 2, shuffle=True)).notes == []
    [note] = feed_for(DataLoader(_items(), 2, num_workers=2, in_order=False)).notes
    assert "in_order" in note
    crowded = Everything()
    crowded.transforms = [[Everything()] for _ in range(3000)]  # type: ignore[misc]
    [note] = feed_for(DataLoader(crowded, 2)).notes
    assert "too large to be searched" in note


def test_a_sampler_with_the_global_generator_given_by_hand() -> None:
    def loader() -> DataLoader[Any]:
        sampler = RandomSampler(range(12), replacement=True, num_samples=70, generator=torch.default_generator)
        return DataLoader(_items(), 10, sampler=sampler)

    seed_everything(1)
    feed = feed_for(loader())
    feed.begin(None)
    batches = []
    for number in range(7):
        if number == 4:
            position = feed.position(4)
        batches.append(plain(feed.next()))
        torch.rand(3)  # the training's own
    again = feed_for(loader())
    again.begin(position)
    assert [plain(batch) for batch in drain(again)] == batches[4:]
