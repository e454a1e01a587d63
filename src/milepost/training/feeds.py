"""Feeds: how a loop reads its data so that a restart continues at the very same batch.

A feed reads one loader, pass after pass. Its position is saved with each checkpoint, between passes too, and handed
to `Feed.begin` after a restart: first of all, whatever the loop was about to do. A pass that was over is over again
(`Feed.next` raises StopIteration at once), and ``begin(None)`` starts the one after it.

What a framework's loaders need is in that framework's adapter, imported when such a loader is given.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from milepost.errors import LoaderError
from milepost.training.feeds_checks import Position, capture_generators, check, restore_generators
from milepost.training.feeds_iterable import ReplayFeed, StatefulFeed
from milepost.training.generators import find_generators


class Feed(Protocol):
    """One loader, read pass after pass."""

    notes: list[str]
    """Lines to show at the start: where a restart cannot be exact, and why."""
    length: int | None
    """Batches in a pass, where that is known."""

    def begin(self, saved: Mapping[str, object] | None) -> None:
        """Start a pass: a new one, or the one whose `position` is `saved`.

        A new pass draws from the global random generators; one that continues leaves them as they are.

        Raises:
            LoaderError: the loader is not the one whose position was saved.

        """

    def next(self) -> object:
        """The next batch; StopIteration at the end of the pass."""

    def position(self, done: int) -> Position:
        """Where the pass is when `done` of its batches are done.

        That is all that were handed out, or all but the last, which is then handed out again on resume: the batch of
        an outer loop is still in progress while an inner loop saves.
        """

    def close(self) -> None:
        """Leave the pass: it is over, and workers that are not persistent stop."""


# -- which feed ----------------------------------------------------------------------

_ADAPTERS = {
    "torch": "milepost.torch.loader",
    "torchdata": "milepost.torch.loader",
    "grain": "milepost.jax.grain",
    "tensorflow": "milepost.tensorflow.loader",
}


def _adapter(loader: object) -> Any:
    for cls in type(loader).__mro__:
        module = _ADAPTERS.get(cls.__module__.partition(".")[0])
        if module:
            return importlib.import_module(module)
    return None


def feed_for(loader: object, *, replay: bool = False) -> Feed:
    """The feed that reads `loader`.

    Args:
        loader: a loader of a framework milepost knows; a list, tuple, range or array; anything with ``__len__`` and
            ``__getitem__`` that is iterated by them; an iterable with ``state_dict`` and ``load_state_dict``, on
            itself or its iterator.
        replay: accept any other iterable too, and draw again on a restart what was done.

    Raises:
        LoaderError: nothing of the kind, and no `replay`.

    """
    adapter = _adapter(loader)
    feed = adapter.feed_for(loader, replay=replay) if adapter else None
    if feed is not None:
        return cast("Feed", feed)
    if is_sequence(loader):
        return SequenceFeed(cast("Sequence[object]", loader))
    loader = check_iterable(loader)
    if replay:
        return ReplayFeed(loader)
    if keeps_state(loader):
        return StatefulFeed(loader)
    iterator = iter(loader)
    if keeps_state(iterator):
        return StatefulFeed(loader, first=iterator)
    raise refusal(loader)


def check_iterable(loader: object) -> Iterable[object]:
    """`loader`, if it can be iterated over; else a `LoaderError`."""
    if hasattr(type(loader), "__iter__") or hasattr(type(loader), "__getitem__"):
        return cast("Iterable[object]", loader)
    raise LoaderError(
        "data must be iterable",
        where="run.batches",
        expected="a DataLoader, a list, or another iterable of batches",
        found=type(loader).__qualname__,
    )


def refusal(loader: object, why: str = "its iterator has no position that could be saved") -> LoaderError:
    """The error for data whose position milepost cannot restore without `replay`."""
    return LoaderError(
        f"cannot continue in the middle of a {type(loader).__qualname__}: {why}",
        where="run.batches",
        expected="a list, a map-style DataLoader, or an iterable with state_dict and load_state_dict",
        found=f"{type(loader).__module__}.{type(loader).__qualname__}",
        hint="give it these two methods; or run.batches(..., replay=True), which draws again after a restart",
    )


def shield(loader: Iterable[object]) -> Iterable[object]:
    """`loader`, its workers proof against the signals that ask the trainer to save; for loops that are not tracked.

    The result is used from then on in its place: persistent workers belong to it.
    """
    adapter = _adapter(loader)
    return cast("Iterable[object]", adapter.shield(loader)) if adapter else loader


def is_sequence(loader: object) -> bool:
    """Whether iterating over `loader` is indexing it from 0 to its length."""
    cls = type(loader)
    if isinstance(loader, Mapping) or not (hasattr(cls, "__len__") and hasattr(cls, "__getitem__")):
        return False
    known = (list, tuple, range, deque, np.ndarray)
    return getattr(cls, "__iter__", None) in (None, Sequence.__iter__, *(base.__iter__ for base in known))


def keeps_state(thing: object) -> bool:
    """Whether `thing` has ``state_dict`` and ``load_state_dict``."""
    return callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))


class SequenceFeed:
    """Reads a sequence by index: the position is how many are done.

    Generators that the sequence holds (see `find_generators`) are saved and put back with it.
    """

    def __init__(self, sequence: Sequence[object]) -> None:
        self.notes: list[str] = []
        self.length: int | None = len(sequence)
        self._sequence = sequence
        self._handed, self._open = 0, False

    def begin(self, saved: Mapping[str, object] | None) -> None:
        """See `Feed.begin`."""
        self.length = len(self._sequence)
        self._handed = 0
        self._generators = find_generators({"data": self._sequence})
        if saved is not None:
            check(saved, self._facts(), type(self._sequence).__qualname__)
            self._handed = cast("int", saved["done"])
            restore_generators(self._generators, saved["generators"])
        self._before = capture_generators(self._generators)
        self._open = True

    def next(self) -> object:
        """See `Feed.next`."""
        if not self._open or self._handed >= len(self._sequence):
            raise StopIteration
        self._before = capture_generators(self._generators)
        item = self._sequence[self._handed]
        self._handed += 1
        return item

    def position(self, done: int) -> Position:
        """See `Feed.position`."""
        generators = capture_generators(self._generators) if done == self._handed else self._before
        return {"facts": self._facts(), "done": done, "generators": generators}

    def close(self) -> None:
        """See `Feed.close`."""
        self._open = False

    def _facts(self) -> dict[str, object]:
        return {"feed": "sequence", "length": len(self._sequence)}
