"""Single arrays of numpy (``.npy``, numpy.lib.format); arrays of Python objects are named and not read."""

from __future__ import annotations

import ast
import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.dtypes import DType
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.place import File, Folder, Readable, read_array
from milepost.formats.source import FormatSource, as_array, spec

NAME = "a numpy array"
MAGIC = b"\x93NUMPY"
LARGEST_HEADER = 64 * 1024
"""Bytes; numpy itself reads 10,000 characters."""
LARGEST_TEXT = 16 * 1024 * 1024
"""Bytes of the strings of one array."""


class Header(NamedTuple):
    """What a file says of its array: numpy's ``descr``, the shape, whether in Fortran order, and where the bytes begin."""

    descr: object
    shape: tuple[int, ...]
    fortran: bool
    offset: int


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, File) and place.head.startswith(MAGIC)


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    header = read_header(place)
    if is_text(header):
        return _Npy(place, header, {}, {"array": read_text(place, header)})
    return _Npy(place, header, {"array": array_spec(place, header)}, {})


class _Npy(FormatSource):
    def __init__(self, file: File, header: Header, specs: dict[str, TensorSpec], plain: dict[str, Any]) -> None:
        super().__init__(file.where, specs, plain, {"format": NAME})
        self._file, self._header = file, header

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        return read(self._file, self._header, spec)

    def _stands(self, path: str) -> tuple[Readable, int] | None:
        return stands(self._file, self._header)


def read_header(source: Readable) -> Header:
    """Read the header of the array that is all of `source`.

    Raises:
        FormatError: not an array, or of a newer version.
    """
    start = source.read(0, 8)
    if not start.startswith(MAGIC) or start[6] not in (1, 2, 3):
        raise FormatError("this is not a numpy array, or of a newer version", where=source.where)
    wide = 2 if start[6] == 1 else 4
    length = int.from_bytes(source.read(8, wide), "little")
    if length > LARGEST_HEADER:
        raise FormatError("the header of the array is impossibly long", where=source.where, found=f"{length} bytes")
    text = source.read(8 + wide, length).decode("latin1" if start[6] < 3 else "utf-8")
    fields = _parse(text)
    if fields is None:
        raise FormatError("the header of the array cannot be read", where=source.where, found=text[:200])
    return Header(*fields, 8 + wide + length)


@lru_cache(maxsize=256)  # the arrays of an archive are often alike, and parsing takes longer than all the rest
def _parse(text: str) -> tuple[object, tuple[int, ...], bool] | None:
    """``descr``, ``shape`` and ``fortran_order``; None if the text has something else."""
    try:
        # A literal nested too deep for the parser is one of the errors.
        fields = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        return None
    shape, fortran = fields["shape"], fields["fortran_order"]
    if type(shape) is not tuple or type(fortran) is not bool:
        return None
    return fields["descr"], shape, fortran


def array_spec(source: Readable, header: Header) -> TensorSpec:
    """What the array is.

    Raises:
        FormatError: a type that is not read, or another number of bytes than its shape says.
        UnsafeContentError: an array of Python objects.
    """
    kind, inner, _ = element(header.descr, source.where)
    found = spec(kind, (*header.shape, *inner), source.where, "array")
    if source.size - header.offset != found.nbytes:
        raise FormatError(
            "the array has another size than its shape says",
            where=source.where,
            expected=f"{found.nbytes} bytes",
            found=f"{source.size - header.offset} bytes",
        )
    return found


def read(source: Readable, header: Header, spec: TensorSpec) -> npt.NDArray[Any]:
    """The array that `read_header` and `array_spec` found in `source`, in C order."""
    _, inner, big_endian = element(header.descr, source.where)
    data = read_array(source, header.offset, spec.nbytes)
    if not header.fortran or inner:
        return as_array(data, spec, big_endian=big_endian)
    turned = spec._replace(shape=spec.shape[::-1])
    return np.ascontiguousarray(as_array(data, turned, big_endian=big_endian).T)


def stands(source: Readable, header: Header) -> tuple[Readable, int] | None:
    """See `FormatSource._stands`."""
    _, _, big_endian = element(header.descr, source.where)
    return None if header.fortran or big_endian else (source, header.offset)


def element(descr: object, where: str) -> tuple[DType, tuple[int, ...], bool]:
    """The element type that numpy's ``descr`` names, the dimensions within an element, and whether it is big-endian.

    Types that numpy does not have (bfloat16 ...) are written as raw bytes of some size, and it is lost what they were: each
    element is then an array of bytes.

    Raises:
        FormatError: a type that is not read.
        UnsafeContentError: Python objects, which only a pickle could bring back.
    """
    if not isinstance(descr, str):
        raise FormatError("arrays of records are not read", where=where, found=repr(descr)[:200])
    text = descr.lstrip("<>=|")
    if text.startswith("O"):
        raise UnsafeContentError(
            "an array of Python objects is a pickle", where=where, hint="save it with numbers or text in it"
        )
    if re.fullmatch(r"V[0-9]{1,3}", text):
        return dtypes.dtype("uint8"), (int(text[1:]),), False
    kind = (
        dtypes.dtype("float8_e5m2") if text == "f1" else None
    )  # numpy takes the one of ml_dtypes for a float of its own
    if re.fullmatch(r"\?|[bBiufc][0-9]{0,2}", text) and kind is None:
        kind = dtypes.from_numpy(np.dtype(text))
    if kind is None:
        raise FormatError("arrays of this type are not read", where=where, found=descr[:100])
    return kind, (), descr.startswith(">")


def is_text(header: Header) -> bool:
    """Whether the array holds text or byte strings, which are plain values."""
    return isinstance(header.descr, str) and re.fullmatch(r"[<>|]?[US][0-9]{1,6}", header.descr) is not None


def is_opaque(header: Header) -> bool:
    """Whether the array holds what is never read: Python objects or records."""
    return not isinstance(header.descr, str) or header.descr.lstrip("<>=|").startswith("O")


def read_text(source: Readable, header: Header) -> Any:
    """The strings of the array: one, or lists of them.

    Raises:
        FormatError: too many for plain values, or another number of bytes than the shape says.
    """
    assert isinstance(header.descr, str)
    kind = np.dtype(header.descr)
    size = spec(dtypes.dtype("uint8"), (*header.shape, kind.itemsize), source.where, "array").nbytes
    if size > LARGEST_TEXT or math.prod(header.shape) > LARGEST_TEXT // 16:
        raise FormatError("an array of more text than is shown", where=source.where, found=f"{size} bytes")
    if source.size - header.offset != size:
        raise FormatError("the array has another size than its shape says", where=source.where)
    data = np.frombuffer(source.read(header.offset, size), np.uint8)
    made = np.ndarray(header.shape, kind, data.tobytes(), order="F" if header.fortran else "C")
    return made.tolist()
