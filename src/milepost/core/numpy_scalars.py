"""NumPy's scalars and dtypes, and those of ml_dtypes (bfloat16, float8 ...), as values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from milepost.core.codecs import refuse, register

_UNIT = re.compile(r"(\d*)(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)|generic", re.ASCII)
_TYPE_STRING = re.compile(r"[<>|]?[?biufcSUVOMm]\d{0,9}(\[\w+\])?|[a-z]\w*", re.ASCII)


def _number_types() -> list[type[np.generic]]:
    """Every scalar type whose values are bool, int, float or complex, but for the long doubles."""
    codes = "?" + np.typecodes["AllInteger"] + "efdFD"
    own = {np.dtype(code).type for code in codes}  # several codes may be one type, which ones depends on the platform
    others = [getattr(ml_dtypes, name) for name in ml_dtypes.__all__]
    return [*own, *(kind for kind in others if isinstance(kind, type) and issubclass(kind, np.generic))]


def _register_number(kind: type[Any]) -> None:
    number = type(kind(1).item())

    def encode(value: Any) -> Any:
        plain = value.item()
        return [plain.real, plain.imag] if number is complex else plain

    def decode(plain: Any) -> Any:
        wanted = complex(*plain) if number is complex else plain
        with np.errstate(all="ignore"):
            value = kind(wanted)
        if repr(value.item()) != repr(wanted):  # their repr tells NaN and -0.0 apart, which == does not
            raise ValueError(f"{wanted} is not a value of {kind.__name__}")
        return value

    shape = tuple[float, float] if number is complex else number
    register(f"{kind.__module__}.{kind.__name__}", [kind], encode, decode, shape=shape)


def _register_time(kind: type[Any]) -> None:
    def encode(value: Any) -> Any:
        unit, count = np.datetime_data(value.dtype)
        return [None if np.isnat(value) else int(value.view(np.int64)), f"{count if count != 1 else ''}{unit}"]

    def decode(stored: tuple[int | None, str]) -> Any:
        ticks, unit = stored
        if not _UNIT.fullmatch(unit):
            raise ValueError(f"not a unit of time: {unit!r}")
        return kind("NaT" if ticks is None else ticks, *([] if unit == "generic" else [unit]))

    register(f"numpy.{kind.__name__}", [kind], encode, decode, shape=tuple[int | None, str])


def _same_dtype(first: np.dtype[Any], second: np.dtype[Any]) -> bool:
    # Equality takes long and long long for one where they are of one size.
    return first == second and (first.char, first.byteorder) == (second.char, second.byteorder)


def _dtype_text(value: np.dtype[Any]) -> str:
    for text in (value.name, value.str, value.char):
        try:
            if _same_dtype(_read_dtype(text), value):
                return text
        except (TypeError, ValueError):
            continue
    raise ValueError("only dtypes of plain elements can be stored (no fields, no subarrays)")


def _read_dtype(text: str) -> np.dtype[Any]:
    if not _TYPE_STRING.fullmatch(text):
        raise ValueError(f"not the name of a dtype: {text!r}")
    extended: Callable[[], Any] | None = getattr(ml_dtypes, text, None)
    return np.dtype(extended if isinstance(extended, type) and issubclass(extended, np.generic) else text)


_dtype_types = {type(np.dtype(kind)) for kind in _number_types()} | {
    getattr(np.dtypes, name) for name in np.dtypes.__all__
}

for _kind in _number_types():
    _register_number(_kind)
_register_time(np.datetime64)
_register_time(np.timedelta64)
register("numpy.str_", [np.str_], str, np.str_, shape=str)
register("numpy.bytes_", [np.bytes_], bytes, np.bytes_, shape=bytes)
register("numpy.dtype", _dtype_types, _dtype_text, _read_dtype, shape=str)

refuse([np.longdouble, np.clongdouble], "long double differs between machines: store float(x) or complex(x)")
refuse([np.void, np.object_], "store its fields one by one")
refuse([np.ndarray], "an array that is not a tensor here: give its item a name of its own")
refuse(
    ["numpy.random._generator:Generator"],
    "hand it over as an item of its own, or store generator.bit_generator.state",
)
refuse(["numpy.random.mtrand:RandomState"], "hand it over as an item of its own, or store its get_state()")
