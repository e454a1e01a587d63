"""Python's own scalar values: those JSON has, and those that are stored under a tag.

`NATIVE` are the five types that JSON has, with what JSON lacks of them under a tag: ints beyond ±2**53 (which other
readers would round), NaN and infinities, and strings with lone surrogates (which are not UTF-8). The others are
registered with `codecs`.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from types import EllipsisType
from typing import Any

import msgspec

from milepost.core.codecs import refuse, register

EXACT = 2**53
"""Ints up to this size are exact in every JSON reader, also where all numbers are float64."""

_DECIMAL_BITS = 2048  # Python may be set to refuse decimal text of more than 640 digits (int_max_str_digits)


def _int(value: int) -> Any:
    if -EXACT <= value <= EXACT:
        return value
    return {"$int": str(value) if value.bit_length() <= _DECIMAL_BITS else hex(value)}


def _float(value: float) -> Any:
    return value if math.isfinite(value) else {"$float": repr(value)}


def _str(value: str) -> Any:
    return (
        value if is_text(value) else {"$str": value.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()}
    )


def _same(value: Any) -> Any:
    return value


NATIVE: dict[type, Callable[[Any], Any]] = {type(None): _same, bool: _same, int: _int, float: _float, str: _str}
"""Type -> JSON of a value of exactly this type."""


def is_text(value: str) -> bool:
    """Whether `value` can be written as UTF-8: it has no lone surrogates."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- ints, floats and strings that JSON lacks --------------------------------------------------------------------------


def _read_int(text: str) -> int:
    return int(text, 16 if text.lstrip("-").startswith("0x") else 10)


def _read_float(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError("neither nan nor inf nor -inf")
    return float(text)


def read_str(text: str) -> str:
    r"""The string that ``{"$str": text}`` stands for: in `text` a surrogate is ``\udxxx`` and a backslash ``\\``."""
    return re.sub(r"\\(?:\\|u(d[89a-f][0-9a-f]{2}))", lambda found: chr(int(found[1], 16)) if found[1] else "\\", text)


register("int", (), _same, _read_int, shape=str)
register("float", (), _same, _read_float, shape=str)
register("str", (), _same, read_str, shape=str)


# -- other builtins ----------------------------------------------------------------------------------------------------


def _base64(value: bytes | bytearray) -> str:
    return binascii.b2a_base64(value, newline=False).decode()


def read_bytes(text: str) -> bytes:
    """The bytes that ``{"$bytes": text}`` stands for; ``ValueError`` if `text` is not base64."""
    return binascii.a2b_base64(text, strict_mode=True)


register("bytes", [bytes], _base64, read_bytes, shape=str)
register("bytearray", [bytearray], _base64, lambda text: bytearray(read_bytes(text)), shape=str)
register(
    "complex",
    [complex],
    lambda value: [value.real, value.imag],
    lambda parts: complex(*parts),
    shape=tuple[float, float],
)
register(
    "range",
    [range],
    lambda value: [value.start, value.stop, value.step],
    lambda ends: range(*ends),
    shape=tuple[int, int, int],
)
register(
    "slice",
    [slice],
    lambda value: [value.start, value.stop, value.step],
    lambda ends: slice(*ends),
    shape=tuple[Any, Any, Any],
)
register("ellipsis", [EllipsisType], lambda _: True, lambda _: ..., shape=bool)


# -- numbers, paths, identifiers ---------------------------------------------------------------------------------------


def _fraction(ends: tuple[int, int]) -> object:
    from fractions import Fraction

    return Fraction(*ends)


def _decimal(text: str) -> object:
    from decimal import Decimal

    return Decimal(text)


def _uuid(text: str) -> object:
    from uuid import UUID

    return UUID(text)


def _path(name: str) -> Callable[[str], object]:
    def read(text: str) -> object:
        import pathlib

        try:
            return getattr(pathlib, name)(text)
        except NotImplementedError:  # a WindowsPath anywhere else
            raise LookupError(f"there is no {name} on this system") from None

    return read


register(
    "fraction",
    ["fractions:Fraction"],
    lambda value: [value.numerator, value.denominator],
    _fraction,
    shape=tuple[int, int],
)
register("decimal", ["decimal:Decimal"], str, _decimal, shape=str)
register("uuid", ["uuid:UUID"], str, _uuid, shape=str)
for _name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
    # Python 3.13 defines them in pathlib._local.
    register(_name.lower(), [f"pathlib:{_name}", f"pathlib._local:{_name}"], str, _path(_name), shape=str)


# -- dates and times ---------------------------------------------------------------------------------------------------


class _Moment(msgspec.Struct, forbid_unknown_fields=True):
    """A date and time, or a time of day, by the clock of `zone`.

    `fold` tells apart the two moments that a clock shows alike when it is set back.
    """

    local: str
    zone: Any = None
    fold: int = 0


def _moment(value: datetime | time) -> Any:
    local = value.replace(tzinfo=None, fold=0).isoformat()
    if value.tzinfo is None and not value.fold:
        return local
    return {"local": local, "zone": value.tzinfo, "fold": value.fold}


def _read_moment(kind: type[datetime] | type[time]) -> Callable[[str | _Moment], object]:
    def read(stored: str | _Moment) -> object:
        moment = _Moment(stored) if isinstance(stored, str) else stored
        value = kind.fromisoformat(moment.local)
        if value.tzinfo is not None:
            raise ValueError("local time with an offset")
        if moment.zone is not None and not isinstance(moment.zone, tzinfo):
            raise LookupError(f"its time zone is not known here: {moment.zone!r}")
        return value.replace(tzinfo=moment.zone, fold=moment.fold)

    return read


class _Offset(msgspec.Struct, forbid_unknown_fields=True):
    offset: str
    name: str


def _timezone(value: timezone) -> Any:
    offset = time(tzinfo=value).isoformat().removeprefix("00:00:00")
    # timezone(offset, name) has no other way to say whether it was given its name.
    _, *name = value.__getinitargs__()  # type: ignore[attr-defined]
    return {"offset": offset, "name": name[0]} if name else offset


_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{6}))?)?", re.ASCII)


def _read_timezone(stored: str | _Offset) -> timezone:
    # Not time.fromisoformat: that of Python 3.11 takes an offset of less than a second for none.
    found = _OFFSET.fullmatch(stored if isinstance(stored, str) else stored.offset)
    if found is None:
        raise ValueError("not an offset like +02:00")
    hours, minutes, seconds, microseconds = (int(part or 0) for part in found.groups()[1:])
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds, microseconds=microseconds)
    offset = -offset if found[1] == "-" else offset
    return timezone(offset) if isinstance(stored, str) else timezone(offset, stored.name)


def _zoneinfo(value: Any) -> str:
    if value.key is None:
        raise ValueError("a ZoneInfo without a key cannot be found again")
    return str(value.key)


def _read_zoneinfo(key: str) -> tzinfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(key)
    except (LookupError, OSError):  # an OSError where the key is that of a folder of zones
        raise LookupError(f"the time zone {key!r} is not known here") from None


register("datetime", [datetime], _moment, _read_moment(datetime), shape=str | _Moment)
register("time", [time], _moment, _read_moment(time), shape=str | _Moment)
register("date", [date], date.isoformat, date.fromisoformat, shape=str)
register(
    "timedelta",
    [timedelta],
    lambda value: [value.days, value.seconds, value.microseconds],
    lambda parts: timedelta(*parts),
    shape=tuple[int, int, int],
)
register("timezone", [timezone], _timezone, _read_timezone, shape=str | _Offset)
register("zoneinfo", ["zoneinfo:ZoneInfo"], _zoneinfo, _read_zoneinfo, shape=str)

refuse(["random:Random"], "store its getstate() and give that to setstate()")
