"""GGUF files, in which llama.cpp and others keep models (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Quantized tensors of the types Q4_0, Q8_0 and Q4_K are read as the float32 numbers they stand for, those of other types as their
blocks of bytes; `notes` has the type of each.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.paths import escape
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats import bounds
from milepost.formats.ggml import KINDS, Kind
from milepost.formats.place import File, Folder, read_array
from milepost.formats.source import LARGEST, MOST_DIMENSIONS, FormatSource, as_array, spec, unused

NAME = "a GGUF model"
MAGIC = b"GGUF"
LARGEST_HEADER = 48 * 1024 * 1024
"""Bytes of metadata and the list of tensors; a vocabulary of 250,000 words takes about 10 MB."""
LONGEST_LIST = 64
"""Numbers of an array that is a plain value; longer ones are tensors."""
MOST_TENSORS = 200_000
MOST_STRINGS = 1_500_000
DEEPEST = 4
"""Arrays within arrays."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NUMPY = {0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32", 7: "bool", 10: "uint64",
          11: "int64", 12: "float64"}  # fmt: skip
_STRING, _ARRAY = 8, 9


class Place(NamedTuple):
    """Where a tensor is, and as what."""

    offset: int
    size: int
    kind: Kind


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, File) and place.head.startswith(MAGIC)


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    return _Header(place).read()


class Gguf(FormatSource):
    """One model, its header read."""

    def __init__(
        self,
        file: File,
        order: str,
        specs: dict[str, TensorSpec],
        places: dict[str, Place],
        plain: dict[str, Any],
        told: dict[str, Any],
        notes: dict[str, str],
    ) -> None:
        self.notes = notes
        super().__init__(file.where, specs, plain, told)
        self._file, self._order, self._places = file, order, places

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        place = self._places[path]
        raw = read_array(self._file, place.offset, place.size)
        if place.kind.values is None:
            return as_array(raw, spec, big_endian=self._order == ">")
        return place.kind.values(raw.reshape(-1, place.kind.size), self._order).reshape(spec.shape)


class _Header:
    """Reads what stands before the tensors, front to back."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._near = b""
        self._strings_left = bounds.most(MOST_STRINGS)
        self._longest = min(file.size, bounds.most(LARGEST_HEADER))
        self._at = 4
        version = file.read(4, 4)
        # A file of the other byte order has its version the other way round, and it was never large.
        self._order = "<" if version[2:] == b"\0\0" else ">"
        self._version = self._number("I")
        if self._version not in (1, 2, 3):
            raise FormatError(
                "a GGUF file of another version", where=file.where, expected="1, 2 or 3", found=self._version
            )
        self._count = "I" if self._version == 1 else "Q"
        self._specs: dict[str, TensorSpec] = {}
        self._places: dict[str, Place] = {}
        self._plain: dict[str, Any] = {}

    def read(self) -> Gguf:
        tensors, values = self._number(self._count), self._number(self._count)
        if tensors > bounds.most(MOST_TENSORS):
            raise bounds.too_much(
                "more tensors than any model has", self._file.where, bound=MOST_TENSORS, found=tensors
            )
        alignment, told = 32, {"format": NAME, "version": self._version, "written_by": {}}
        for _ in range(values):
            key = self._string()
            path = unused(f"metadata/{escape(key)}", self._plain, self._specs)
            value = self._value(self._number("I"), path, DEEPEST)
            if value is not None:
                self._plain[path] = value
            if key == "general.alignment":
                alignment = value
        if type(alignment) is not int or not 0 < alignment <= 1 << 20:
            raise FormatError("an impossible alignment", where=self._file.where, found=repr(alignment)[:100])
        infos = [self._info() for _ in range(tensors)]
        start = -(-self._at // alignment) * alignment
        stored = {}
        for name, shape, kind, offset in infos:
            path = unused(escape(name), self._specs, self._plain)
            self._specs[path], self._places[path] = self._tensor(path, shape, kind, start + offset)
            stored[path] = self._places[path].kind.name
        if "metadata/general.architecture" in self._plain:
            told["architecture"] = self._plain["metadata/general.architecture"]
        return Gguf(self._file, self._order, self._specs, self._places, self._plain, told, stored)

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dims = self._string(), self._number("I")
        if dims > MOST_DIMENSIONS:
            raise FormatError(f"tensor {name!r} has an impossible shape", where=self._file.where, found=f"{dims} sizes")
        form = f"{self._order}{dims}{self._count}IQ"
        *shape, kind, offset = struct.unpack(form, self._take(struct.calcsize(form)))
        return name, tuple(shape[::-1]), kind, offset

    def _tensor(self, path: str, shape: tuple[int, ...], number: int, offset: int) -> tuple[TensorSpec, Place]:
        where = self._file.where
        kind = KINDS.get(number)
        if kind is None:
            raise FormatError(
                f"tensor {path!r} has an unknown type", where=where, found=f"type {number}", hint="update milepost"
            )
        if kind.plain is not None:
            found = spec(dtypes.dtype(kind.plain), shape, where, path)
            return found, Place(offset, found.nbytes, kind)
        whole = spec(dtypes.dtype("float32"), shape, where, path)
        if not shape or shape[-1] % kind.per_block:
            raise FormatError(
                f"the rows of tensor {path!r} are no whole number of blocks",
                where=where,
                expected=f"a multiple of {kind.per_block}",
                found=repr(shape)[:200],
            )
        blocks = spec(dtypes.dtype("uint8"), (*shape[:-1], shape[-1] // kind.per_block * kind.size), where, path)
        return (blocks if kind.values is None else whole), Place(offset, blocks.nbytes, kind)

    def _value(self, kind: int, path: str, depth: int) -> Any:
        """The next value; None of an array that is noted as a tensor."""
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY or not depth:
            raise FormatError("a value of an unknown type", where=self._file.where, found=f"type {kind} at {path}")
        inner, count = self._number("I"), self._number(self._count)
        if inner == _STRING:
            return self._strings(count)
        if inner not in _SCALARS:
            if count > LARGEST_HEADER // 16:
                raise UnsafeContentError("an array without end", where=self._file.where, found=f"{count} at {path}")
            return [self._value(inner, path, depth - 1) for _ in range(count)]
        size = struct.calcsize(f"<{_SCALARS[inner]}")
        if count <= LONGEST_LIST or depth < DEEPEST:
            raw = self._take(count * size)
            return list(struct.unpack(f"{self._order}{count}{_SCALARS[inner]}", raw))
        self._specs[path] = spec(dtypes.dtype(_NUMPY[inner]), (count,), self._file.where, path)
        self._places[path] = Place(self._at, count * size, Kind(_NUMPY[inner], 1, size, _NUMPY[inner]))
        self._need(count * size)
        self._at += count * size
        return None

    def _strings(self, count: int) -> list[str]:
        """`count` strings: a vocabulary has hundreds of thousands, so this is a tight loop."""
        self._strings_left -= count
        if self._strings_left < 0:
            raise bounds.too_much("more strings than any model has", self._file.where, bound=MOST_STRINGS)
        found = []
        size_of = struct.Struct(f"{self._order}{self._count}")
        wide, at = size_of.size, self._at
        for _ in range(count):
            if at + wide > len(self._near):
                self._need(at + wide - self._at)
            (size,) = size_of.unpack_from(self._near, at)
            at += wide
            if at + size > len(self._near):
                self._need(at + size - self._at)
            found.append(self._near[at : at + size].decode("utf-8", "replace"))
            at += size
        self._at = at
        return found

    def _string(self) -> str:
        return self._take(self._number(self._count)).decode("utf-8", "replace")

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack(self._order + code, self._take(struct.calcsize("<" + code)))
        return value

    def _take(self, size: int) -> bytes:
        self._need(size)
        self._at += size
        return self._near[self._at - size : self._at]

    def _need(self, size: int) -> None:
        """Have the next `size` bytes at hand."""
        stop = self._at + size
        if stop <= len(self._near):
            return
        if self._longest < stop <= self._file.size:
            raise bounds.too_much("the header is impossibly long", self._file.where, bound=LARGEST_HEADER)
        if stop > self._longest:
            raise FormatError(
                "the header is cut short",
                where=self._file.where,
                found=f"{min(size, LARGEST)} bytes at {self._at} of {self._file.size}",
            )
        # Twice as much each time, so that the whole is read about once.
        more = min(max(stop, 2 * len(self._near), 1 << 20), self._longest)
        self._near += self._file.read(len(self._near), more - len(self._near))
