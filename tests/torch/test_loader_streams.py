"""Loaders that keep a state of their own, and iterables that are drawn again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from loader_data import Everything, assert_plain, drain, plain, resume, seed_everything, train
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchdata import nodes
from torchdata.stateful_dataloader import StatefulDataLoader

from milepost.errors import LoaderError
from milepost.training.feeds import feed_for
from milepost.training.feeds_iterable import ReplayFeed
from milepost.training.rng import GlobalRng

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")


class Counting(IterableDataset[int]):
    """A stream with a state: where it is, and a tensor. `at_end` says whether its state after a pass is that of the
    end.
    """

    def __init__(self, *, at_end: bool = True, length: int = 20) -> None:
        self.at_end, self.length, self.next, self.loaded = at_end, length, 0, False
        self.total = torch.zeros(2, dtype=torch.int64)

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        step, first = (1, 0) if info is None else (info.num_workers, info.id)
        if not self.loaded:
            self.next = 0
        self.loaded = False
        while self.next * step + first < self.length:
            value = self.next * step + first
            self.next += 1
            self.total += value
            yield value
        if not self.at_end:
            self.next = 0

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next, "total": self.total.clone(), "nested": [(1, "a")]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["nested"] == [(1, "a")]
        self.next, self.total, self.loaded = state["next"], state["total"].clone(), True


class Noisy(IterableDataset[float]):
    """A stream without a state that draws from everywhere."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(2)

    def __iter__(self) -> Iterator[float]:
        for number in range(11):
            yield number + random.random() + np.random.randn() + torch.rand(()).item() + self.rng.random()


class OwnIter(DataLoader[Any]):
    def __iter__(self) -> Iterator[Any]:
        return (batch * 2 for batch in super().__iter__())


STATEFUL: dict[str, Callable[[], Any]] = {
    "a dataset with a state, no workers": lambda: DataLoader(Counting(), 3),
    "a dataset that begins anew, no workers": lambda: DataLoader(Counting(at_end=False), 3),
    "full batches, no workers": lambda: DataLoader(Counting(), 4),
    "torchdata, no workers": lambda: StatefulDataLoader(Counting(), 3),
    "torchdata, a dataset that begins anew, no workers": lambda: StatefulDataLoader(Counting(at_end=False), 4),
    "torchdata's nodes": lambda: nodes.Loader(nodes.Batcher(nodes.IterableWrapper(range(20)), 3, drop_last=False)),
    "torchdata, workers": lambda: StatefulDataLoader(Counting(), 3, num_workers=2),
}


@pytest.mark.parametrize("case", STATEFUL)
def test_through_their_own_state(case: str) -> None:
    seed_everything(1)
    trace, snapshots = train(STATEFUL[case](), 2)
    assert len(trace[0]) > 3
    for done, snapshot in enumerate(snapshots[0]):
        assert_plain(snapshot.position)
        done = min(done, len(trace[0]))
        assert resume(STATEFUL[case](), snapshot, done, 2) == [trace[0][done:], trace[1]]
    assert resume(STATEFUL[case](), snapshots[1][0], 0, 1) == [trace[1]]
    notes = feed_for(STATEFUL[case]()).notes
    assert any("state_dict" in note for note in notes)
    assert any("not repeated" in note for note in notes) is ("workers" in case and "no workers" not in case)


def test_the_batch_in_progress_of_an_outer_loop_cannot_be_had_again() -> None:
    feed = feed_for(DataLoader(Counting(), 3))
    feed.begin(None)
    feed.next()
    with pytest.raises(LoaderError, match="in progress") as caught:
        feed.position(0)
    assert "train=False" in str(caught.value.hint)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_over_a_map_style_dataset_is_exact_like_any_other(workers: int) -> None:
    def loader(number: int) -> Any:
        return StatefulDataLoader(Everything(), 4, shuffle=True, num_workers=number)

    seed_everything(1)
    trace, snapshots = train(loader(workers), 2)
    assert feed_for(loader(workers)).notes == []
    for done in (0, 2, 5):
        seed_everything(1)
        assert resume(loader(2 - workers), snapshots[0][done], done, 2) == [trace[0][done:], trace[1]]


REPLAYED: dict[str, Callable[[], Any]] = {
    "stream": lambda: DataLoader(Noisy(), 2),
    "stream, workers": lambda: DataLoader(Noisy(), 2, num_workers=2),
    "an __iter__ of its own": lambda: OwnIter(Everything(), 4, shuffle=True),
}


@pytest.mark.parametrize("case", REPLAYED)
def test_drawn_again(case: str) -> None:
    def train_replayed() -> tuple[Any, Any]:
        feed, rng = feed_for(REPLAYED[case](), replay=True), GlobalRng()
        trace: list[Any] = []
        positions: list[Any] = []
        for _ in range(2):
            feed.begin(None)
            seen = []
            while True:
                positions.append((len(trace), len(seen), feed.position(len(seen)), rng.capture()))
                try:
                    seen.append(plain(feed.next()))
                except StopIteration:
                    break
                random.random(), torch.rand(2), np.random.randn()  # the training's own draws do not matter
            positions.append((len(trace), len(seen), feed.position(len(seen)), rng.capture()))
            trace.append(seen)
        return trace, positions

    seed_everything(1)
    trace, positions = train_replayed()
    assert trace[0] != trace[1]
    for number, done, position, rng in positions:
        seed_everything(77)
        feed = feed_for(REPLAYED[case](), replay=True)
        before = plain(GlobalRng().capture())
        feed.begin(position)
        assert plain(GlobalRng().capture()) == before
        assert [plain(batch) for batch in drain(feed)] == trace[number][done:]
        if number == 0 and position["over"]:
            GlobalRng().restore(rng)
            feed.begin(None)
            assert [plain(batch) for batch in drain(feed)] == trace[1]


def test_drawn_again_with_other_workers_is_refused() -> None:
    feed = feed_for(REPLAYED["stream, workers"](), replay=True)
    feed.begin(None)
    position = feed.position(0)
    with pytest.raises(LoaderError, match="not what it was") as caught:
        feed_for(REPLAYED["stream"](), replay=True).begin(position)
    assert caught.value.expected == "workers 2"


def test_exact_feeds_need_no_replay_even_where_it_is_allowed() -> None:
    assert not isinstance(feed_for(DataLoader(Everything(), 2), replay=True), ReplayFeed)
    assert not isinstance(feed_for(torch.arange(6), replay=True), ReplayFeed)


def test_tensors_are_read_row_by_row() -> None:
    rows = torch.arange(6).reshape(3, 2)
    feed = feed_for(rows)
    feed.begin(None)
    assert plain(feed.next()) == plain(rows[0])
    again = feed_for(rows)
    again.begin(feed.position(1))
    assert [plain(row) for row in drain(again)] == [plain(rows[1]), plain(rows[2])]
