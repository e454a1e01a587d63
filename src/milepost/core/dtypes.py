"""The element types a checkpoint can hold: one table from a name to bits, safetensors code and numpy type.

A name is the framework-neutral one (``float32``, ``bfloat16``, ``float8_e4m3fn``); adapters translate their own.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import ml_dtypes
import numpy as np

from milepost.errors import FormatError


class DType(NamedTuple):
    """One element type.

    `bits` is the size of an element; sub-byte types are packed, so their last dimension counts bytes as in the framework that
    wrote them. `code` is the safetensors name, or None where the format has none (stored as U8 then). `numpy` is what a reader
    gets, or None where numpy has nothing like it (the raw bytes are shown then).
    """

    name: str
    bits: int
    code: str | None
    numpy: np.dtype[np.generic] | None
    floating: bool = False


def _table() -> dict[str, DType]:
    plain = {
        "bool": (8, "BOOL"), "uint8": (8, "U8"), "int8": (8, "I8"), "uint16": (16, "U16"), "int16": (16, "I16"),
        "uint32": (32, "U32"), "int32": (32, "I32"), "uint64": (64, "U64"), "int64": (64, "I64"),
    }  # fmt: skip
    floats = {"float16": (16, "F16"), "float32": (32, "F32"), "float64": (64, "F64")}
    complexes = {"complex64": (64, "C64"), "complex128": (128, None)}
    extended = {
        "bfloat16": (16, "BF16"), "float8_e4m3fn": (8, "F8_E4M3"), "float8_e5m2": (8, "F8_E5M2"),
        "float8_e4m3fnuz": (8, "F8_E4M3FNUZ"), "float8_e5m2fnuz": (8, "F8_E5M2FNUZ"),
        # safetensors 0.8 writes F8_E8M0 but cannot load it: raw bytes open everywhere
        "float8_e8m0fnu": (8, None),
        "float8_e4m3": (8, None), "float8_e3m4": (8, None), "float8_e4m3b11fnuz": (8, None),
    }  # fmt: skip
    table = {name: DType(name, bits, code, np.dtype(name)) for name, (bits, code) in plain.items()}
    for name, (bits, code) in (floats | complexes).items():
        table[name] = DType(name, bits, code, np.dtype(name), floating=True)
    for name, (bits, code) in extended.items():
        table[name] = DType(name, bits, code, np.dtype(getattr(ml_dtypes, name)), floating=True)
    for name in (
        "int4",
        "uint4",
        "int2",
        "uint2",
        "float4_e2m1fn",
        "float6_e2m3fn",
        "float6_e3m2fn",
    ):  # one element a byte, as ml_dtypes and JAX hold them
        table[name] = DType(name, 8, None, np.dtype(getattr(ml_dtypes, name)), floating=name.startswith("float"))
    table["float4_e2m1fn_x2"] = DType("float4_e2m1fn_x2", 8, None, None, floating=True)  # torch: two elements a byte
    table["complex32"] = DType("complex32", 32, None, None, floating=True)  # two float16
    return table


TABLE = _table()
_BY_CODE = {dtype.code: dtype for dtype in TABLE.values() if dtype.code}


def dtype(name: str) -> DType:
    """The type called `name`; `FormatError` if milepost knows none (a newer milepost may)."""
    try:
        return TABLE[name]
    except KeyError:
        raise FormatError(f"unknown dtype {name!r}", expected=", ".join(TABLE), hint="update milepost") from None


def from_code(code: str) -> DType | None:
    """The type that a safetensors header calls `code`, or None."""
    return _BY_CODE.get(code)


@cache
def from_numpy(kind: np.dtype[np.generic]) -> DType | None:
    """The type of a numpy array, or None if it cannot be stored (objects, strings, structured, datetime, long double)."""
    found = TABLE.get(kind.name)
    return found if found is not None and found.numpy == kind.newbyteorder("=") else None


def storage_code(kind: DType) -> str:
    """The safetensors code under which elements of `kind` are written: their own, or U8 for raw bytes."""
    return kind.code or "U8"
