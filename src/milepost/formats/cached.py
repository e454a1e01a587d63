"""Small reads of a large file, most of them one behind the other."""

from __future__ import annotations

from milepost.formats.place import Readable, check_range

BLOCK = 256 * 1024


class Cached:
    """Something readable whose last block is kept, so that going through a header costs few reads."""

    def __init__(self, inner: Readable) -> None:
        self.where, self.size = inner.where, inner.size
        self._inner = inner
        self._start, self._block = 0, b""

    def read(self, offset: int, size: int) -> bytes:
        at = offset - self._start
        if not 0 <= at <= at + size <= len(self._block):
            check_range(self, offset, size)
            if size >= BLOCK:
                return self._inner.read(offset, size)
            self._start, at = offset, 0
            self._block = self._inner.read(offset, min(BLOCK, self.size - offset))
        return self._block[at : at + size]

    def read_into(self, offset: int, out: memoryview) -> None:
        self._inner.read_into(offset, out)
