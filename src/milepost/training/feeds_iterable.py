"""Feeds over iterables that are no sequences: through their own state, or by drawing again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from milepost.errors import LoaderError
from milepost.training.feeds_checks import Position, capture_generators, check, digest, length_of, restore_generators
from milepost.training.generators import find_generators
from milepost.training.rng import Course, libraries


class StatefulFeed:
    """Reads an iterable that keeps its own state, itself or in its iterators.

    Args:
        iterable: what is read.
        first: its first iterator, if the state is in the iterators and one was made to find out.
        holder: what has the state, where that is neither the iterable nor its iterators.
        pack: makes the state plain.
        unpack: undoes `pack`.
        end: ends an iterator that is left.
        notes: what to say about exactness at the start.

    """

    def __init__(
        self,
        iterable: Iterable[object],
        *,
        first: Iterator[object] | None = None,
        holder: object = None,
        pack: Callable[[Any], Any] = lambda state: state,
        unpack: Callable[[Any], Any] = lambda state: state,
        end: Callable[[Any], None] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.notes = list(notes)
        self.length = length_of(iterable)
        self._iterable, self._first = iterable, first
        self._holder: Any = iterable if holder is None and first is None else holder
        self._pack, self._unpack, self._end = pack, unpack, end
        self._where = type(first if self._holder is None else self._holder).__qualname__
        self._iterator: Any = None
        self._handed, self._over = 0, False

    def begin(self, saved: Mapping[str, object] | None) -> None:
        """See `Feed.begin`."""
        self._handed, self._over, self._iterator = 0, False, None
        if saved is None:
            self._iterator = self._fresh()
            return
        check(saved, self._facts(), self._where)
        self._handed, self._over = cast("int", saved["done"]), bool(saved["over"])
        state = self._unpack(saved["state"])
        with Course():  # what the iterable draws now, the pass drew before the save
            if self._holder is not None:
                self._holder.load_state_dict(state)
            if not self._over:
                self._iterator = self._fresh()
                if self._holder is None:
                    self._iterator.load_state_dict(state)

    def _fresh(self) -> Iterator[object]:
        first, self._first = self._first, None
        return iter(self._iterable) if first is None else first

    def next(self) -> object:
        """See `Feed.next`."""
        if self._iterator is None:
            raise StopIteration
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._over = True
            raise
        self._handed += 1
        return batch

    def position(self, done: int) -> Position:
        """See `Feed.position`; a batch that is in progress is a `LoaderError`, since the state is past it."""
        if done != self._handed:
            raise LoaderError(
                f"{self._where} cannot go back to the batch in progress: its state is already past it",
                where="run.batches",
                expected="a save between two of its batches",
                found="a save in an inner loop",
                hint="save in the outer loop only (train=False inside), or read a list or a map-style loader outside",
            )
        holder = self._iterator if self._holder is None else self._holder
        state = None if holder is None else self._pack(holder.state_dict())
        return {"facts": self._facts(), "done": done, "over": self._over, "state": state}

    def close(self) -> None:
        """See `Feed.close`."""
        if self._end is not None and self._iterator is not None:
            self._end(self._iterator)
        if self._holder is not None:
            self._iterator = None

    def _facts(self) -> dict[str, object]:
        return {"feed": "stateful", "class": self._where}


class ReplayFeed:
    """Reads any iterable: a restart draws again what was done, throws it away, and checks that it was the same.

    The iterable draws from a `Course` of the global generators, so that the training's own draws in between do not
    matter. Generators that it holds are put back to where they were when the pass began. `facts` are what must not have
    changed beside the iterable's class.
    """

    def __init__(self, iterable: Iterable[object], *, facts: Mapping[str, object] | None = None) -> None:
        self._iterable, self._where = iterable, type(iterable).__qualname__
        self.notes = [
            f"{self._where}: a restart draws the batches done in this pass again, which takes as long as it took before"
        ]
        self.length = length_of(iterable)
        self._facts = {"feed": "replay", "class": self._where, **(facts or {})}
        self._iterator: Iterator[object] | None = None
        self._handed, self._over = 0, False

    def begin(self, saved: Mapping[str, object] | None) -> None:
        """See `Feed.begin`."""
        self._generators = find_generators({"data": self._iterable})
        self._handed, self._over, self._iterator = 0, False, None
        self._digest = self._digest_before = 0
        if saved is None:
            self._seeds = {library.name: library.draw() for library in libraries()}
        else:
            check(saved, self._facts, self._where)
            self._seeds = dict(cast("Mapping[str, int]", saved["seeds"]))
            self._over = bool(saved["over"])
            restore_generators(self._generators, saved["generators"])
        self._start = capture_generators(self._generators)
        self._course = Course(self._seeds)
        if not self._over:
            with self._course:
                self._iterator = iter(self._iterable)
        if saved is not None and not self._over:
            self._skip(cast("int", saved["done"]), cast("int", saved["digest"]))

    def _skip(self, done: int, expected: int) -> None:
        while self._handed < done and not self._over:
            with contextlib.suppress(StopIteration):
                self.next()
        if self._handed != done or self._digest != expected:
            raise LoaderError(
                f"{self._where} gave other batches when they were drawn again",
                where="run.batches",
                expected=f"the {done} batches drawn before the save",
                found=f"only {self._handed}" if self._handed < done else "other values",
                hint="it draws from somewhere milepost cannot see (the clock, the system, other processes): seed that",
            )

    def next(self) -> object:
        """See `Feed.next`."""
        if self._iterator is None:
            raise StopIteration
        try:
            with self._course:
                batch = next(self._iterator)
        except StopIteration:
            self._over = True
            raise
        self._handed += 1
        self._digest_before, self._digest = self._digest, digest(batch, self._digest)
        return batch

    def position(self, done: int) -> Position:
        """See `Feed.position`."""
        return {
            "facts": dict(self._facts),
            "done": done,
            "over": self._over,
            "digest": self._digest if done == self._handed else self._digest_before,
            "seeds": dict(self._seeds),
            "generators": capture_generators(self._generators) if self._over else dict(self._start),
        }

    def close(self) -> None:
        """See `Feed.close`."""
        self._iterator = None
