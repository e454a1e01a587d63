"""The bytes of a pickle, front to back: numbers, lines, and long values that stay where they are."""

from __future__ import annotations

from milepost.errors import FormatError
from milepost.formats.pickle_values import Long
from milepost.formats.place import Readable, Window

LONG = 64 * 1024
"""Bytes from which on bytes and texts stay in the file."""
LONGEST_OPERAND = 8

_PIECE = 256 * 1024


class Operands:
    """What is read of a pickle.

    Args:
        source: what it is in.
        offset: where in `source` it begins.
    """

    def __init__(self, source: Readable, offset: int = 0) -> None:
        self._source = source
        self._base, self._data, self._at = offset, b"", 0
        self._enough = -1
        """Up to here the longest operand that has a fixed size is at hand (or the end of the source is)."""

    @property
    def position(self) -> int:
        """Where in the source the next byte is."""
        return self._base + self._at

    def _more(self, size: int) -> None:
        """Have at least `size` bytes at hand."""
        position, left = self.position, self._source.size - self.position
        if size > left:
            raise FormatError("the pickle is cut short", expected=f"{size} bytes more", found=f"{left}")
        self._data = self._source.read(position, max(size, min(_PIECE, left)))
        self._base, self._at = position, 0
        self._enough = len(self._data) - (1 if len(self._data) == left else 1 + LONGEST_OPERAND)

    def _take(self, size: int) -> bytes:
        at = self._at
        if at + size > len(self._data):
            self._more(size)
            at = 0
        self._at = at + size
        return self._data[at : at + size]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self, most: int = LONG) -> bytes:
        found = self._data.find(b"\n", self._at)
        while found < 0:
            have, left = len(self._data) - self._at, self._source.size - self.position
            if have > most or have == left:
                raise FormatError("a line of the pickle has no end, or is impossibly long", found=f"{have} bytes")
            self._more(min(max(2 * have, 1), left))
            found = self._data.find(b"\n")
        line = self._data[self._at : found]
        if len(line) > most:
            raise FormatError("a line of the pickle has no end, or is impossibly long", found=f"{len(line)} bytes")
        self._at = found + 1
        return line

    def _long(self, size: int, kind: str) -> Long:
        found = Long(Window(self._source, self.position, size), kind)
        self._base, self._data, self._at, self._enough = self.position + size, b"", 0, -1
        return found
