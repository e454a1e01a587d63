"""The layout of a safetensors file: which tensor stands where, and the header that says so.

Milepost's files follow the safetensors format (https://github.com/huggingface/safetensors, "Format") and add three rules, so that
a file can be staged, written and read in large aligned blocks: entries stand in the order of their element size,
descending, then of their key; the header is padded with spaces so that the data starts at a multiple of 4096 bytes; the file ends
where the data ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from milepost.core import dtypes
from milepost.core.dtypes import DType
from milepost.core.readjson import Unreadable, read_json
from milepost.errors import DamagedError

ALIGNMENT = 4096
LARGEST_HEADER = 100_000_000
"""Bytes; the bound that the safetensors package itself keeps."""


class Entry(NamedTuple):
    """One tensor in a file: its key, element type and shape, and the bytes ``[offset, offset + nbytes)`` of the file."""

    key: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Layout(NamedTuple):
    """A whole file. `plain` says that every entry has its own safetensors dtype rather than raw bytes."""

    header: bytes
    entries: tuple[Entry, ...]
    size: int
    plain: bool


def nbytes(kind: DType, shape: tuple[int, ...]) -> int:
    """Bytes of a C-contiguous tensor."""
    return math.prod(shape) * (kind.bits // 8)


class Span(NamedTuple):
    """The bytes ``[offset, offset + nbytes)`` of a file."""

    offset: int
    nbytes: int


def overlaps(
    spans: Sequence[Entry | Span], first: int, start: int, stop: int
) -> tuple[list[tuple[int, int, int]], int]:
    """What the bytes ``[start, stop)`` of a file hold of each span, for reading a file block by block.

    Args:
        spans: ordered by offset.
        first: the first span to look at: 0, then what the last call returned.
        start: first byte of the block.
        stop: the byte behind its last.

    Returns:
        (index of the span, first byte, byte behind the last) for each overlap, and `first` for the next block.
    """
    found = []
    while first < len(spans):
        low, high = spans[first].offset, spans[first].offset + spans[first].nbytes
        if max(low, start) < min(high, stop):
            found.append((first, max(low, start), min(high, stop)))
        if high > stop:
            break
        first += 1
    return found, first


def plan(tensors: Iterable[tuple[str, DType, tuple[int, ...]]], metadata: Mapping[str, str] | None = None) -> Layout:
    """Lay out a file that holds `tensors` (key, dtype, shape), with `metadata` in its header."""
    ordered = sorted(tensors, key=lambda tensor: (-tensor[1].bits, tensor[0]))
    head: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    sizes = [nbytes(kind, shape) for _, kind, shape in ordered]
    position = 0
    for (key, kind, shape), size in zip(ordered, sizes, strict=True):
        shown = shape if kind.code else (size,)
        head[key] = {
            "dtype": dtypes.storage_code(kind),
            "shape": shown,
            "data_offsets": (position, position + size),
        }
        position += size
    text = msgspec.json.encode(head)
    start = -(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT
    header = (start - 8).to_bytes(8, "little") + text.ljust(start - 8)
    entries = []
    for (key, kind, shape), size in zip(ordered, sizes, strict=True):
        entries.append(Entry(key, kind, shape, start, size))
        start += size
    return Layout(header, tuple(entries), start, all(entry.dtype.code for entry in entries))


def parse(
    header: bytes, size: int, where: str
) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], dict[str, str]]:
    """Read a safetensors header, trusting nothing in it.

    Args:
        header: the first bytes of the file: 8 for the length, then the JSON text.
        size: bytes of the whole file.
        where: named in errors.

    Returns:
        Per key the safetensors dtype code, shape, first byte in the file and number of bytes; and the ``__metadata__``.

    Raises:
        DamagedError: the header is cut short, not JSON, or points outside the file.
    """
    length = int.from_bytes(header[:8], "little")
    if len(header) < 8 or length > min(size - 8, LARGEST_HEADER) or len(header) < 8 + length:
        raise DamagedError("the safetensors header is cut short", where=where, found=f"a file of {size} bytes")
    try:
        fields = read_json(header[8 : 8 + length], dict[str, msgspec.Raw])
        told = fields.pop("__metadata__", None)
        metadata = {} if told is None else read_json(told, dict[str, str | int | float | bool | None])
        entries = {}
        for key, field in fields.items():
            entry = _FIELD.decode(field)
            first, last = entry.data_offsets
            if not 0 <= first <= last <= size - 8 - length or any(n < 0 for n in entry.shape):
                raise DamagedError(f"entry {key!r} lies outside the file", where=where)
            entries[key] = (entry.dtype, entry.shape, 8 + length + first, last - first)
    except (Unreadable, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError("the safetensors header cannot be read", where=where, found=str(error)) from error
    return entries, {key: str(value) for key, value in metadata.items()}


class _Field(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


_FIELD = msgspec.json.Decoder(_Field)
