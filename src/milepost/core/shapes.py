"""The JSON shapes that stand under the tags of containers; the table in `milepost.core.values` shows each."""

from __future__ import annotations

from typing import Any

import msgspec

from milepost.errors import FormatError

Pairs = list[tuple[Any, Any]]


class Tensors(msgspec.Struct, forbid_unknown_fields=True):
    """A dict of nothing but tensors, each at the path ``under/<its name>``."""

    under: str
    names: list[str]


class Ordered(msgspec.Struct, forbid_unknown_fields=True):
    """An OrderedDict; `attributes` are what was set on it, as torch sets ``_metadata`` on a state_dict."""

    items: Any
    attributes: dict[str, Any] = {}


class DefaultDict(msgspec.Struct, forbid_unknown_fields=True):
    """A defaultdict; `factory` is the name of a builtin or null."""

    items: Any
    factory: str | None


class Deque(msgspec.Struct, forbid_unknown_fields=True):
    """A deque, first element first."""

    items: list[Any]
    maxlen: int | None = None


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """A named tuple: its class as ``"module:QualName"``, and its fields in order."""

    class_: str = msgspec.field(name="class")
    fields: Any


class DataRecord(Record):
    """A dataclass; `attributes` are what was set on it beside its fields, `unset` the fields that had no value."""

    attributes: dict[str, Any] = {}
    unset: list[str] = []


class Member(msgspec.Struct, forbid_unknown_fields=True):
    """A member of an enum, or members of a Flag (`name` is then for people); no `value` if that cannot be stored."""

    class_: str = msgspec.field(name="class")
    name: str | None
    value: Any = msgspec.UNSET


def fit(payload: object, shape: Any, where: str, tag: str) -> Any:
    """`payload` as `shape`; `FormatError` at `where` if it is something else."""
    try:
        return msgspec.convert(payload, shape)
    except (msgspec.ValidationError, OverflowError) as error:
        raise FormatError(f"what is stored under ${tag} has the wrong shape", where=where, found=error) from error
