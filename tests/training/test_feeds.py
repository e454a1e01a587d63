"""Feeds that need no framework: sequences, iterables with a state, iterables that are drawn again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.leaves import digest
from milepost.errors import LoaderError
from milepost.training.feeds import Feed, SequenceFeed, feed_for, is_sequence, shield
from milepost.training.rng import GlobalRng


def drain(feed: Feed) -> Iterator[Any]:
    while True:
        try:
            yield feed.next()
        except StopIteration:
            return


def listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


class Indexed:
    """Has a length and indices, and draws from a generator of its own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> float:
        return index + self.rng.random()


class Stateful:
    """Keeps its state itself; `at_end` says whether the state after a pass is that of the end or of the next
    beginning.
    """

    def __init__(self, at_end: bool = True) -> None:
        self.at_end, self.at, self.total, self.loaded = at_end, 0, 0, False

    def __iter__(self) -> Iterator[int]:
        if not self.loaded:
            self.at = 0
        self.loaded = False
        while self.at < 7:
            self.at += 1
            self.total += 1
            yield self.at * 10 + self.total * 1000
        if not self.at_end:
            self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at, "total": self.total}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.at, self.total, self.loaded = state["at"], state["total"], True


class StatefulIterators:
    """Keeps nothing; its iterators do."""

    made = 0

    def __iter__(self) -> _Iterator:
        self.made += 1
        return _Iterator()


class _Iterator:
    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> _Iterator:
        return self

    def __next__(self) -> int:
        if self.at == 7:
            raise StopIteration
        self.at += 1
        return self.at * 10

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.at = state["at"]


class Drawn:
    """An iterable without a state that draws from the global generators and from one of its own."""

    def __init__(self) -> None:
        self.rng = random.Random(1)

    def __iter__(self) -> Iterator[Any]:
        order = np.random.permutation(7)
        for index in order:
            yield {"x": np.full(3, index), "y": (random.random(), self.rng.random(), np.random.randn())}


EXACT: dict[str, tuple[Callable[[], Any], bool]] = {
    "list": (lambda: [10, 20, 30, 40, 50, 60, 70], False),
    "tuple": (lambda: tuple("abcdefg"), False),
    "range": (lambda: range(7), False),
    "deque": (lambda: deque(range(7)), False),
    "array": (lambda: np.arange(21).reshape(7, 3), False),
    "indexed, with a generator": (Indexed, False),
    "state": (Stateful, False),
    "state that begins anew": (lambda: Stateful(at_end=False), False),
    "state in the iterators": (StatefulIterators, False),
    "drawn again": (Drawn, True),
}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return (str(value.dtype), value.tolist()) if isinstance(value, np.ndarray) else value


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.randn()]


@given(case=st.sampled_from(sorted(EXACT)), number=st.integers(0, 1), split=st.integers(0, 8))
def test_a_pass_continues_where_it_was(case: str, number: int, split: int) -> None:
    make, replay = EXACT[case]
    random.seed(1)
    np.random.seed(1)
    feed, states = feed_for(make(), replay=replay), GlobalRng()
    saved: Any = None
    expected: list[Any] = []
    for current in range(3):
        feed.begin(None)
        seen: list[Any] = []
        while True:
            if (current, len(seen)) == (number, split) and saved is None:
                saved = feed.position(len(seen)), states.capture()
            try:
                seen.append([plain(feed.next())])
            except StopIteration:
                break
            seen[-1].append(draws())
        if (current, split) == (number, 8):
            saved = feed.position(len(seen)), states.capture()  # after the end
        expected.append(seen)
    assert len(expected[0]) == 7

    random.seed(99)
    np.random.seed(99)
    again = feed_for(make(), replay=replay)
    before = plain(GlobalRng().capture())
    again.begin(saved[0])
    assert plain(GlobalRng().capture()) == before or case.startswith("state in")  # made to find out what it is
    states.restore(saved[1])
    for current in range(number, 3):
        if current > number:
            again.begin(None)
        rest = expected[current][split if split < 8 else 7 :] if current == number else expected[current]
        assert [[plain(batch), draws()] for batch in drain(again)] == rest


@pytest.mark.parametrize("case", [case for case in EXACT if not case.startswith("state")])
def test_the_batch_in_progress_is_handed_out_again(case: str) -> None:
    make, replay = EXACT[case]
    feed = feed_for(make(), replay=replay)
    feed.begin(None)
    batches = [plain(feed.next()) for _ in range(4)]
    again = feed_for(make(), replay=replay)
    again.begin(feed.position(3))
    assert plain(again.next()) == batches[3]


@pytest.mark.parametrize("make", [Stateful, StatefulIterators])
def test_a_state_cannot_go_back_to_the_batch_in_progress(make: Callable[[], Any]) -> None:
    feed = feed_for(make())
    feed.begin(None)
    feed.next()
    with pytest.raises(LoaderError, match="in progress") as caught:
        feed.position(0)
    assert caught.value.hint


def test_an_iterator_made_to_find_out_is_used() -> None:
    loader = StatefulIterators()
    feed = feed_for(loader)
    feed.begin(None)
    assert list(drain(feed)) == [10, 20, 30, 40, 50, 60, 70]
    assert loader.made == 1
    feed.begin(None)
    assert loader.made == 2


def test_skipped_items_of_a_sequence_are_not_asked_for() -> None:
    asked: list[int] = []

    class Recording(Indexed):
        def __getitem__(self, index: int) -> float:
            asked.append(index)
            return index

    feed = feed_for(Recording())
    feed.begin({"facts": {"feed": "sequence", "length": 7}, "done": 5, "generators": {}})
    assert list(drain(feed)) == [5, 6]
    assert asked == [5, 6]


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_changed_length_is_refused_and_named() -> None:
    feed = feed_for([1, 2, 3])
    feed.begin(None)
    with pytest.raises(LoaderError, match="not what it was") as caught:
        feed_for([1, 2, 3, 4]).begin(feed.position(0))
    assert (caught.value.expected, caught.value.found) == ("length 3", "length 4")


def test_another_kind_of_data_is_refused() -> None:
    feed = feed_for(Stateful())
    feed.begin(None)
    position = feed.position(0)
    for other in (feed_for([1]), feed_for(Drawn(), replay=True), feed_for(StatefulIterators())):
        with pytest.raises(LoaderError, match="not what it was"):
            other.begin(position)


@pytest.mark.parametrize("loader", [Drawn(), (x for x in range(3)), {1: 2}, {1, 2}, "text", map(abs, [1])])
def test_plain_iterables_need_replay(loader: Any) -> None:
    with pytest.raises(LoaderError, match="cannot continue in the middle") as caught:
        feed_for(loader)
    assert type(loader).__qualname__ in str(caught.value.found)
    assert "replay=True" in str(caught.value.hint)
    [note] = feed_for(loader, replay=True).notes
    assert "draws the batches done in this pass again" in note


@pytest.mark.parametrize("loader", [3, None, object()])
def test_what_is_not_iterable_is_refused(loader: Any) -> None:
    for replay in (False, True):
        with pytest.raises(LoaderError, match="must be iterable"):
            feed_for(loader, replay=replay)


class Entropy:
    def __iter__(self) -> Iterator[bytes]:
        return (os.urandom(8) for _ in range(5))


class Shrinking:
    length = 5

    def __iter__(self) -> Iterator[int]:
        self.length -= 2
        return iter(range(self.length + 2))


@pytest.mark.parametrize(("make", "found"), [(Entropy, "other values"), (Shrinking, "only 3")])
def test_other_batches_when_drawn_again_are_refused(make: Callable[[], Any], found: str) -> None:
    loader = make()
    feed = feed_for(loader, replay=True)
    feed.begin(None)
    for _ in range(4):
        feed.next()
    with pytest.raises(LoaderError, match="gave other batches") as caught:
        feed_for(loader, replay=True).begin(feed.position(4))
    assert caught.value.found == found


def test_arrays_that_change_after_they_were_handed_out_do_not_matter() -> None:
    class Reused:
        def __init__(self) -> None:
            self.buffer = np.zeros(4)

        def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
            for value in range(5):
                self.buffer[:] = value
                yield self.buffer

    feed = feed_for(Reused(), replay=True)
    feed.begin(None)
    for _ in range(3):
        feed.next()
    again = feed_for(Reused(), replay=True)
    again.begin(feed.position(3))
    assert listed(again.next()) == [3.0] * 4


# -- what is what ------------------------------------------------------------------------------------------------------


def test_sequences_are_what_iterates_by_index() -> None:
    class ByIteration(Indexed):
        def __iter__(self) -> Iterator[int]:
            return iter([3, 1, 2])

    class Sub(list[int]):
        pass

    assert all(map(is_sequence, ([], (), range(3), deque(), np.zeros(3), Indexed(), Sub())))
    assert not any(map(is_sequence, ({}, set(), ByIteration(), Drawn(), "text", 3)))


def test_length_is_known_where_the_loader_knows_it() -> None:
    assert feed_for([1, 2]).length == 2
    assert feed_for(Drawn(), replay=True).length is None
    assert feed_for(Stateful()).length is None


def test_closed_feeds_hand_out_nothing_and_begin_again() -> None:
    for make, replay in EXACT.values():
        feed = feed_for(make(), replay=replay)
        if isinstance(feed, SequenceFeed):
            continue
        feed.begin(None)
        feed.next()
        feed.close()
        feed.begin(None)
        assert len(list(drain(feed))) == 7


def test_what_has_no_workers_needs_no_shield() -> None:
    loader = [1, 2]
    assert shield(loader) is loader


@dataclass
class Record:
    x: Any
    name: str


def test_digest_tells_values_apart_and_is_the_same_in_another_process() -> None:
    values: list[Any] = [
        None, 0, False, 0.0, "0", b"0", [], [0], [[0]], {}, {"a": 0}, {"a": [0]}, np.zeros(2), np.zeros(2, np.float32),
        np.zeros((1, 2)), np.ones(2), np.float32(0), [np.zeros(1), np.zeros(1)], Record(np.zeros(2), "a"),
        Record(np.ones(2), "a"), Record(np.zeros(2), "b"), [1, [2]], [[1], 2], float("nan"), np.zeros(0),
    ]  # fmt: skip
    assert len({digest(value) for value in values}) == len(values)
    assert digest(1, digest(2)) != digest(2, digest(1))
    assert digest(object()) == digest(object())
    code = "import numpy as np; from milepost.core.leaves import digest; print(digest([1, 'a', np.arange(3.)]))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(shown) == digest([1, "a", np.arange(3.0)])


def test_importing_feeds_imports_no_framework() -> None:
    code = "import sys, milepost.training.feeds; print([m for m in ('torch', 'torchdata', 'jax') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
