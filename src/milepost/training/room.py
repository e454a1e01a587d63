"""Looking for room before a save, so that a person hears of it while there is time."""

from __future__ import annotations

from collections.abc import Callable

from milepost.storage.base import Storage


class Room:
    """The room in one place.

    Args:
        storage: the place.
        warn: told once when it gets too small, and again after it was large enough.
    """

    def __init__(self, storage: Storage, warn: Callable[[str], None]) -> None:
        self._storage, self._warn = storage, warn
        self._enough = True

    def check(self, nbytes: int) -> None:
        """A save of so many bytes comes. It is tried all the same: some of it may be linked."""
        try:
            free = self._storage.free_space()
        except OSError:
            return  # a place that does not even tell that will say more when it is written to
        enough = free >= nbytes
        if self._enough and not enough:
            self._warn(
                f"there may be no room for the next save: it takes {nbytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free in "
                f"{self._storage.root}; make room (`milepost prune --dry-run` shows what could go). The last good "
                "checkpoint stays in any case"
            )
        self._enough = enough
