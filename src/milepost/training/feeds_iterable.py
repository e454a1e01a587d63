"""Feeds over iterables that are no sequences: through their own state, or by drawing again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from milepost.core.leaves import digest
from milepost.errors import LoaderError
from milepost.training.feeds_checks import Position, capture_generators, check, length_of, restore_generators
from milepost.training.generators import find_generators
from milepost.training.rng import Course, draw_all


class StatefulFeed:
    """Reads an iterable that keeps its own state, itself or in its iterators.

    Args:
        iterable: what is read.
        first: its first iterator, if the state is in the iterators and one was made to find out.
        holder: what has the state, where that is neither the iterable nor its iterators.
        where: what the iterable is called, where it stands in for another.

    """

    def __init__(
        self,
        iterable: Iterable[object],
        *,
        first: Iterator[object] | None = None,
        holder: object = None,
        where: str | None = None,
    ) -> None:
        self.notes: list[str] = []
        self.length = length_of(iterable)
        self._iterable, self._first = iterable, first
        self._holder: Any = iterable if holder is None and first is None else holder
        self._where = where or type(first if self._holder is None else self._holder).__qualname__
        self._iterator: Any = None
        self._begun, self._handed, self._over = False, 0, False

    def begin(self, saved: Mapping[str, object] | None) -> None:
        """See `Feed.begin`."""
        if saved is None:
            # Before its first batch a pass is described by what came before it: many an iterable only begins with that.
            self._before = self._state() if self._begun and self._holder is not None else None
            self._seeds = draw_all()
        else:
            check(saved, self._facts(), self._where)
            self._before, self._seeds = saved["before"], dict(cast("Mapping[str, int]", saved["seeds"]))
        self._leave()
        self._begun, self._handed, self._over = True, 0, False
        if saved is not None:
            self._handed, self._over = cast("int", saved["done"]), bool(saved["over"])
        with Course():  # what the iterable draws now, the pass drew before the save
            if saved is not None and self._over:
                self._load_end(saved["state"])
            elif saved is not None and (self._handed or self._holder is None):
                self._iterator = self._load(saved["state"])
            else:
                if saved is not None and self._before is not None:
                    self._load_end(self._before)
                with Course(self._seeds):
                    self._iterator = self._fresh()

    def _fresh(self) -> Iterator[object]:
        first, self._first = self._first, None
        return iter(self._iterable) if first is None else first

    def _load(self, state: Any) -> Iterator[object]:
        if self._holder is not None:
            self._holder.load_state_dict(state)
            return self._fresh()
        iterator: Any = self._fresh()
        iterator.load_state_dict(state)
        return cast("Iterator[object]", iterator)

    def _load_end(self, state: Any) -> None:
        """Bring the iterable where it is after a whole pass, so that the next iterator begins another."""
        if self._holder is None:
            return
        for _ in self._load(state):  # ends at once where the state says that the pass had ended ...
            self._holder.load_state_dict(state)  # ... and where it already stood at the next pass, it does so again
            break

    def _state(self) -> object:
        holder = self._iterator if self._holder is None else self._holder
        return None if holder is None else holder.state_dict()

    def next(self) -> object:
        """See `Feed.next`."""
        if self._iterator is None or self._over:
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
        return {
            "facts": self._facts(),
            "done": done,
            "over": self._over,
            "state": self._state(),
            "before": self._before,
            "seeds": dict(self._seeds),
        }

    def close(self) -> None:
        """See `Feed.close`."""
        self._over = self._begun
        self._leave()

    def _leave(self) -> None:
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
            self._seeds = draw_all()
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
        if self._iterator is None or self._over:
            raise StopIteration
        try:
            with self._course:
                batch = next(self._iterator)
        except StopIteration:
            self._over = True
            raise
        self._handed += 1
        self._digest_before, self._digest = self._digest, digest(self._content(batch), self._digest)
        return batch

    def _content(self, batch: object) -> object:
        """What of a batch is compared with what was drawn before."""
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
        self._over, self._iterator = True, None
