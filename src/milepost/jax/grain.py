"""Grain's loaders: their iterators say where they are, and go there.

Nothing of Grain is imported: its `DataLoader`, `MapDataset` and `IterDataset` all give iterators with ``get_state`` and
``set_state``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from milepost.errors import LoaderError
from milepost.training.feeds import Feed
from milepost.training.feeds_iterable import StatefulFeed
from milepost.training.items import Item, StatefulItem


def make_item(name: str, value: Any) -> Item | None:
    """The item for an iterator, which the script reads by itself; None for others."""
    return StatefulItem(name, Position(value)) if _tells(value) else None


def feed_for(loader: Any, *, replay: bool) -> Feed | None:
    """The feed for a loader, each pass over which begins anew, or for an iterator, which goes on and on; None for others."""
    where = type(loader).__qualname__
    if replay:
        return None
    if _tells(loader):
        return StatefulFeed(cast("Iterable[object]", loader), holder=Position(loader), where=where)
    passes = _Passes(loader)
    return StatefulFeed(passes, first=iter(passes), where=where)


def shield(loader: Any) -> Any:
    """As it is: Grain's worker processes leave signals to the process that trains."""
    return loader


class Position:
    """An iterator of Grain, and where it is, in the words of `state_dict`."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.iterator)

    def state_dict(self) -> Any:
        """Where it is."""
        return self.iterator.get_state()

    def load_state_dict(self, state: Any) -> None:
        """Go there.

        Raises:
            LoaderError: the loader is not what it was.
        """
        try:
            self.iterator.set_state(state)
        except ValueError as error:
            raise LoaderError(
                "Grain refuses the position: the loader is not what it was when it was saved",
                where="run.batches",
                found=str(error).partition("\n\n")[0],
                hint="make it as it was; Grain compares repr() of sampler and data source, so give a source of your own "
                "a __repr__ that is the same in each process",
            ) from error


class _Passes:
    """A loader whose passes are iterators of ours."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Position:
        return Position(iter(self._loader))

    def __len__(self) -> int:
        size = len(self._loader)
        if size >= ENDLESS:
            raise TypeError("endless")
        return size


ENDLESS = 1 << 62
"""What a `MapDataset` that repeats for ever gives for its length is more than that."""


def _tells(value: Any) -> bool:
    return callable(getattr(value, "get_state", None)) and callable(getattr(value, "set_state", None))
