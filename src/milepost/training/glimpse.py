"""Whether memory is as it was, as far as a look at a small part of it can tell."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable


class Glimpses:
    """Remembers some bytes out of the middle of each of several pieces of host memory, which must stay valid.

    Training changes all of a tensor or nothing of it, as a rule: then a few bytes tell. It is no proof.

    Args:
        pieces: (address, bytes) of each.
        most: so many bytes are looked at; all of a piece that is no larger.
    """

    def __init__(self, pieces: Iterable[tuple[int, int]], most: int) -> None:
        self._where = [(address + (size - min(size, most)) // 2, min(size, most)) for address, size in pieces]
        self.seen = [ctypes.string_at(*where) for where in self._where]
        """The bytes."""

    def same(self) -> bool:
        """Whether those bytes are as they were."""
        return all(ctypes.string_at(*where) == seen for where, seen in zip(self._where, self.seen, strict=True))
