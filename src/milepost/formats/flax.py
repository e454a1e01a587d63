"""States that Flax serialised (`flax.serialization.to_bytes`).

It is msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md), in which arrays are extension types, and large ones come in
chunks.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.layout import Span
from milepost.core.paths import escape
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats import bounds
from milepost.formats.place import Ahead, File, Folder, Memory, Readable, read_array
from milepost.formats.source import FormatSource, as_array, spec, unused

NAME = "a state serialised by Flax"
MOST = 900_000
"""Values in a file."""
DEEPEST = 64
LARGEST_TEXT = 32 * 1024 * 1024
"""Bytes of all keys, text and bytes that are plain values."""
CHUNKED = "__msgpack_chunked_array__"

_ARRAY, _COMPLEX, _SCALAR, _TUPLE = 1, 2, 3, 4
"""Codes of extension types; the last is Orbax's."""
_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i",
            0xD3: ">q"}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_PLAIN_ARRAY = re.compile(
    rb"\x01(\x93(?:[\x90-\x9f]|\xdc..)(?:[\x00-\x7f]|\xcc.|\xcd..|[\xce\xd2].{4}|[\xcf\xd3].{8})*[\xa1-\xbf][a-z][a-z0-9_]+)"
    rb"(?:\xc4(.)|\xc5(..)|\xc6(.{4}))",
    re.DOTALL,
)
"""Nearly every array, up to its data: the code, the shape and the type, and the number of bytes."""
_LONGEST_HEAD = 160


class Array(NamedTuple):
    """An array: in one piece, or in chunks, flattened."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Span, ...]


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, File) or not place.head:
        return False
    at = {0xDE: 3, 0xDF: 5}.get(place.head[0], 1)
    first = place.head[at : at + 1]
    if not first or not (0xA1 <= first[0] <= 0xBF or first[0] == 0xD9):
        return False
    size, at = (first[0] & 31, at + 1) if first[0] != 0xD9 else (int.from_bytes(place.head[at + 1 : at + 2]), at + 2)
    try:
        return len(place.head) > at + size and place.head[at : at + size].decode().isprintable()
    except UnicodeDecodeError:
        return False


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    reader = _Reader(place)
    state = reader.value(DEEPEST)
    if reader.at != place.size:
        raise FormatError("something follows the state", where=place.where, found=f"{place.size - reader.at} bytes")
    specs: dict[str, TensorSpec] = {}
    arrays: dict[str, Array] = {}
    plain: dict[str, Any] = {}
    for path, value in _leaves(state, ""):
        path = unused(path, specs, plain)
        if not isinstance(value, Array):
            plain[path] = value
            continue
        specs[path] = spec(dtypes.dtype(value.dtype), value.shape, place.where, path)
        arrays[path] = value
        size = sum(part.nbytes for part in value.parts)
        if size != specs[path].nbytes:
            raise FormatError(
                f"tensor {path!r} has another size than its shape says",
                where=place.where,
                expected=f"{specs[path].nbytes} bytes",
                found=f"{size} bytes",
            )
    return Flax(place, specs, arrays, plain)


class Flax(FormatSource):
    """One state, its structure read."""

    def __init__(
        self, file: File, specs: dict[str, TensorSpec], arrays: dict[str, Array], plain: dict[str, Any]
    ) -> None:
        told: dict[str, Any] = {"format": NAME, "written_by": {"framework": "flax"}}
        super().__init__(file.where, specs, plain, told)
        self._file, self._arrays = file, arrays
        step = plain.get("step")
        if "step" in specs and not specs["step"].shape and not specs["step"].dtype.floating:
            step = int(self["step"])
        if type(step) is int:
            told["step"] = step

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        pieces = [read_array(self._file, *part) for part in self._arrays[path].parts]
        return as_array(pieces[0] if len(pieces) == 1 else np.concatenate(pieces), spec)


class _Reader:
    """Reads msgpack front to back, over the bytes of arrays."""

    def __init__(self, source: Readable) -> None:
        self._source = Ahead(source)
        self.at = 0
        self._left, self._text_left = bounds.most(MOST), bounds.most(LARGEST_TEXT)

    def value(self, depth: int) -> Any:
        """The next value: a dict, list, `Array` or plain value.

        Raises:
            FormatError: it is no msgpack, is cut short, or has more in it than any state.
        """
        self._left -= 1
        if self._left < 0:
            raise bounds.too_much("more values than any state has", self._source.where, bound=MOST)
        if not depth:
            raise UnsafeContentError(
                f"values are nested more than {DEEPEST} levels deep", where=self._source.where, found=f"at {self.at}"
            )
        code = self._take(1)[0]
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 256
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            return struct.unpack(_NUMBERS[code], self._take(struct.calcsize(_NUMBERS[code])))[0]
        if code < 0x90 or code in (0xDE, 0xDF):
            return self._map(code & 15 if code < 0x90 else self._size(2 << code - 0xDE), depth)
        if code < 0xA0 or code in (0xDC, 0xDD):
            count = code & 15 if code < 0xA0 else self._size(2 << code - 0xDC)
            return [self.value(depth - 1) for _ in range(count)]
        if code < 0xC0 or 0xD9 <= code <= 0xDB:
            return self._text(code & 31 if code < 0xC0 else self._size(1 << code - 0xD9)).decode("utf-8", "replace")
        if 0xC4 <= code <= 0xC6:
            return self._text(self._size(1 << code - 0xC4))
        if 0xC7 <= code <= 0xC9:
            return self._extension(self._size(1 << code - 0xC7), depth)
        if 0xD4 <= code <= 0xD8:
            return self._extension(1 << code - 0xD4, depth)
        raise FormatError("this is no msgpack", where=self._source.where, found=f"byte {code:#x} at {self.at - 1}")

    def _map(self, count: int, depth: int) -> Any:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(1)
            name = key if isinstance(key, str) else str(key)
            if name in found:
                raise UnsafeContentError(
                    "a key stands twice in one dict", where=self._source.where, found=ascii(name[:100])
                )
            found[name] = self.value(depth - 1)
        return self._whole(found) if found.get(CHUNKED) is True else found

    def _whole(self, found: dict[str, Any]) -> Array:
        """An array that came in chunks."""
        shape, chunks = found.get("shape"), found.get("chunks")
        shape = list(shape.values()) if isinstance(shape, dict) else shape
        chunks = list(chunks.values()) if isinstance(chunks, dict) else chunks
        if (
            not isinstance(shape, list)
            or not isinstance(chunks, list)
            or not chunks
            or any(not isinstance(chunk, Array) or chunk.dtype != chunks[0].dtype for chunk in chunks)
        ):
            raise FormatError("an array in chunks cannot be understood", where=self._source.where)
        return Array(chunks[0].dtype, tuple(shape), tuple(part for chunk in chunks for part in chunk.parts))

    def _extension(self, size: int, depth: int) -> Any:
        stop = self.at + 1 + size
        value: Any = self._plain_array()
        if value is None:
            (code,) = struct.unpack("b", self._take(1))
            if code == _COMPLEX:
                pair = self.value(depth - 1)
                if not (isinstance(pair, list) and len(pair) == 2 and all(type(part) in (int, float) for part in pair)):
                    raise FormatError("a complex number cannot be understood", where=self._source.where)
                value = complex(*pair)
            elif code == _TUPLE:
                value = tuple(self.value(depth - 1))
            elif code in (_ARRAY, _SCALAR):
                value = self._array(depth)
            else:
                raise FormatError("a value of an unknown type", where=self._source.where, found=f"extension {code}")
        if self.at != stop:
            raise FormatError("a value has another size than was said", where=self._source.where)
        return value

    def _plain_array(self) -> Array | None:
        """What `_array` would find behind the code, several times as fast; None where it has to look."""
        found = _PLAIN_ARRAY.match(self._source.read(self.at, min(_LONGEST_HEAD, self._source.size - self.at)))
        head = None if found is None else _head_of(found[1])
        if found is None or head is None:
            return None
        start, size = self.at + found.end(), int.from_bytes(found[found.lastindex or 0])
        self.at = start + size
        return Array(*head, (Span(start, size),))

    def _array(self, depth: int) -> Array:
        """Shape, name of the type and bytes, of which only the place is noted."""
        name, shape = self.head(depth)
        code = self._take(1)[0]
        if not 0xC4 <= code <= 0xC6:
            raise FormatError("an array cannot be understood", where=self._source.where)
        size = self._size(1 << code - 0xC4)
        found = Span(self.at, size)
        self.at += size
        return Array(name, shape, (found,))

    def head(self, depth: int) -> tuple[str, tuple[int, ...]]:
        """The name of an array's type, and its shape."""
        mark, shape, name = self._take(1), self.value(depth - 1), self.value(depth - 1)
        if mark != b"\x93" or not isinstance(shape, list):
            raise FormatError("an array cannot be understood", where=self._source.where)
        name = name.decode("ascii", "replace") if isinstance(name, bytes) else name
        if name not in dtypes.TABLE:
            raise FormatError("an array of an unknown type", where=self._source.where, found=repr(name)[:100])
        return name, tuple(shape)

    def _size(self, width: int) -> int:
        return int.from_bytes(self._take(width))

    def _text(self, size: int) -> bytes:
        self._text_left -= size
        if self._text_left < 0:
            raise bounds.too_much("more bytes of text than any state has", self._source.where, bound=LARGEST_TEXT)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        self.at += size
        return self._source.read(self.at - size, size)


@lru_cache(1024)
def _head_of(raw: bytes) -> tuple[str, tuple[int, ...]] | None:
    """What `raw` says, if it is all of what stands before the number of an array's bytes."""
    reader = _Reader(Memory(raw, ""))
    try:
        head = reader.head(3)
    except FormatError:
        return None
    return head if reader.at == len(raw) else None


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Everything that is no dict or list, and what is empty, by path."""
    children = value.items() if isinstance(value, dict) else [*enumerate(value)] if type(value) in (list, tuple) else ()
    if not children:
        if path:
            yield path, value
        return
    for key, child in children:
        yield from _leaves(child, f"{path}/{escape(str(key))}" if path else escape(str(key)))
