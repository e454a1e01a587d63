"""Element types of HDF5, told by their fields rather than by what numpy takes them for; runs where h5py does.

HDF5 describes a number bit by bit: a file can hold 16-bit integers in the middle of four bytes, floats that numpy does not know, or
complex numbers with a gap. Bytes are taken as they are only from types that are exactly what we call them; HDF5 converts the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from h5py import h5t

_FLOATS = {
    (16, (15, 10, 5, 0, 10), 15): "float16",
    (32, (31, 23, 8, 0, 23), 127): "float32",
    (64, (63, 52, 11, 0, 52), 1023): "float64",
    (16, (15, 7, 8, 0, 7), 127): "bfloat16",
    (8, (7, 2, 5, 0, 2), 15): "float8_e5m2",
    (8, (7, 3, 4, 0, 3), 7): "float8_e4m3fn",
}
"""By precision, places and lengths of sign, exponent and mantissa, and bias of the exponent."""
_OPAQUE = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e4m3": 1, "int4": 1, "uint4": 1}
"""Types that Keras and h5py write as bytes of no meaning; Keras says beside, as ``dtype``, which they are."""
_BITS = [
    (h5t.STD_B8LE, "uint8", False), (h5t.STD_B8BE, "uint8", True), (h5t.STD_B16LE, "uint16", False),
    (h5t.STD_B16BE, "uint16", True), (h5t.STD_B32LE, "uint32", False), (h5t.STD_B32BE, "uint32", True),
    (h5t.STD_B64LE, "uint64", False), (h5t.STD_B64BE, "uint64", True),
]  # fmt: skip
_LARGEST_OPAQUE = 65536
_TRUTH = {b"FALSE": 0, b"TRUE": 1}
_KINDS = {
    h5t.STRING: "text", h5t.REFERENCE: "references", h5t.VLEN: "lists of any length", h5t.TIME: "times",
    h5t.COMPOUND: "records", h5t.ARRAY: "arrays", h5t.FLOAT: "floats of another kind", h5t.INTEGER: "large integers",
}  # fmt: skip


class Element(NamedTuple):
    """What the elements of a dataset are."""

    name: str
    """In our words; ``uint8`` for bytes of no meaning."""
    memory: Any
    """The type to ask HDF5 for: the file's own, or where that is no plain one, little-endian elements of what is called `name`."""
    exact: bool = True
    """Whether that is the file's own."""
    big_endian: bool = False
    """The order of what is asked for."""
    size: int | None = None
    """Bytes of no meaning in an element: one more dimension."""


def element(kind: Any, said: object) -> Element | None:
    """What `kind`, a type of HDF5, is; None if it is no number.

    Args:
        kind: the type.
        said: the attribute ``dtype`` of the dataset.
    """
    if isinstance(kind, h5t.TypeOpaqueID):
        name = said.decode("ascii", "replace") if isinstance(said, bytes) else said
        size = kind.get_size()
        if isinstance(name, str) and _OPAQUE.get(name) == size:
            return Element(name, kind)
        return Element("uint8", kind, size=size) if 0 < size <= _LARGEST_OPAQUE else None
    if isinstance(kind, h5t.TypeEnumID):
        base = kind.get_super()
        members = {kind.get_member_name(at): kind.get_member_value(at) for at in range(min(kind.get_nmembers(), 3))}
        found = Element("bool", kind) if members == _TRUTH and base.get_size() == 1 else _number(base)
        # HDF5 would convert an enumeration by its names, which may be too few.
        return found._replace(memory=kind) if found is not None and found.exact else None
    if isinstance(kind, h5t.TypeCompoundID):
        return _complex(kind)
    return _number(kind)


def described(kind: Any) -> str:
    """What is said of a type whose values are not shown."""
    return f"not read: {_KINDS.get(kind.get_class(), 'a type of its own')} ({kind.get_size()} bytes each)"


def _number(kind: Any) -> Element | None:
    """An integer or float."""
    if isinstance(kind, h5t.TypeBitfieldID):
        return next((Element(name, kind, big_endian=big) for known, name, big in _BITS if kind.equal(known)), None)
    if not isinstance(kind, h5t.TypeFloatID | h5t.TypeIntegerID):
        return None
    order, bits = kind.get_order(), kind.get_size() * 8
    if order not in (h5t.ORDER_LE, h5t.ORDER_BE):
        return None
    plainly = kind.get_precision() == bits and kind.get_offset() == 0
    name: str | None
    if isinstance(kind, h5t.TypeFloatID):
        known = plainly and kind.get_norm() == h5t.NORM_IMPLIED
        name = _FLOATS.get((bits, kind.get_fields(), kind.get_ebias())) if known else None
        return None if name is None else Element(name, kind, big_endian=order == h5t.ORDER_BE)
    signed = kind.get_sign() == h5t.SGN_2
    fitting = next((size for size in (8, 16, 32, 64) if size >= bits), None)
    if fitting is None:
        return None
    name = f"{'' if signed else 'u'}int{fitting}"
    if plainly and fitting == bits:
        return Element(name, kind, big_endian=order == h5t.ORDER_BE)
    return Element(name, h5t.py_create(np.dtype(name).newbyteorder("<")), exact=False)


def _complex(kind: Any) -> Element | None:
    """Two floats that are called so, as h5py writes complex numbers."""
    if kind.get_nmembers() != 2 or (kind.get_member_name(0), kind.get_member_name(1)) != (b"r", b"i"):
        return None
    real, imaginary = kind.get_member_type(0), kind.get_member_type(1)
    part = _number(real)
    name = {"float32": "complex64", "float64": "complex128"}.get("" if part is None else part.name)
    if part is None or name is None or not real.equal(imaginary):
        return None
    size = real.get_size()
    if kind.get_size() == 2 * size and (kind.get_member_offset(0), kind.get_member_offset(1)) == (0, size):
        return part._replace(name=name, memory=kind)
    close = h5t.create(h5t.COMPOUND, 2 * size)
    close.insert(b"r", 0, real)
    close.insert(b"i", size, imaginary)
    return part._replace(name=name, memory=close, exact=False)
