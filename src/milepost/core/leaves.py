"""What any nested value consists of, and whether it is the same as in another process.

Unlike `milepost.core.tree` this stores nothing and refuses nothing: what cannot be looked into is a leaf as well, and
is told apart (`Leaf.opaque`).
"""

from __future__ import annotations

import ctypes
import datetime
import enum
import pathlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import xxhash

from milepost.core.adapter import LeafInfo, TensorAdapter, adapter_of
from milepost.core.paths import below, escape
from milepost.errors import NotStorableError

DEEPEST, MOST = 60, 1_000_000
"""Levels that are gone down, and values that are looked at, lest something that contains itself never ends."""
WHOLE, WINDOWS, WINDOW = 1 << 16, 16, 1 << 12
"""A fingerprint reads tensors of up to `WHOLE` bytes, of larger ones so many windows of so many bytes."""
PLAIN = (
    type(None), bool, int, float, complex, str, bytes, np.generic, enum.Enum, datetime.date, datetime.time,
    datetime.timedelta, pathlib.PurePath, range, slice, type,
)  # fmt: skip

Children = Callable[[Any, str], "Mapping[Any, Any] | None"]

VIEWED = ("tensorflow", "jaxlib", "keras")
"""Frameworks whose tensors give a NumPy array of themselves, and have no adapter: they are looked at, not stored."""


class Leaf(NamedTuple):
    """A value that holds no others: a tensor (`info` and `adapter`), a plain value, or something `opaque`."""

    path: str
    value: Any
    adapter: TensorAdapter | None = None
    info: LeafInfo | None = None
    opaque: bool = False

    @property
    def kind(self) -> str:
        """Type and shape, for people."""
        if self.info is not None:
            return f"{self.info.dtype.name} {list(self.info.shape)}"
        return type(self.value).__qualname__

    def content(self) -> memoryview:
        """The bytes of a tensor in C order, valid as long as nobody changes it; copied only where that cannot be avoided."""
        assert self.info is not None
        assert self.adapter is not None
        size, address = self.info.nbytes, self.info.address
        if address is not None:
            return memoryview((ctypes.c_char * size).from_address(address) if size else b"").cast("B")
        copied = memoryview(bytearray(size))
        self.adapter.copy(self.value, copied)
        return copied

    def text(self) -> bytes:
        """What is compared of a leaf that is no tensor: its class and, unless it is opaque, its value."""
        name = type(self.value).__qualname__
        return name.encode() if self.opaque else f"{name} {self.value!r}".encode("utf-8", "backslashreplace")


def leaves(value: object, path: str = "", children: Children | None = None) -> Iterator[Leaf]:
    """Every leaf of a nested value: of dicts, lists, tuples, sets, dataclasses, and what `children` looks into.

    Args:
        value: anything.
        path: of `value` itself.
        children: gives what an object of another class, at a path, holds, by name, and None where it is a leaf.

    Example:
        >>> [(leaf.path, leaf.value) for leaf in leaves({"a": [1, 2], "b": "x"})]
        [('a/0', 1), ('a/1', 2), ('b', 'x')]
    """
    waiting: list[tuple[str, Any, int]] = [(path, value, 0)]
    left = MOST
    while waiting:
        here, one, depth = waiting.pop()
        left -= 1
        if isinstance(one, PLAIN):
            yield Leaf(here, one)
            continue
        adapter = adapter_of(one)
        if adapter is not None:
            try:
                yield Leaf(here, one, adapter, adapter.describe(one))
            except NotStorableError:
                yield Leaf(here, one, opaque=True)
            continue
        viewed = _viewed(one, here)
        if viewed is not None:
            yield viewed
            continue
        inside = _inside(one, here, children) if depth < DEEPEST and left > 0 else None
        if inside is None:
            yield Leaf(here, one, opaque=True)
        elif not inside:
            yield Leaf(here, f"<empty {type(one).__qualname__}>")
        else:
            under = below(here)
            found = [(under + escape(key if isinstance(key, str) else repr(key)), v, depth + 1) for key, v in inside]
            waiting += reversed(found)


def _viewed(value: Any, path: str) -> Leaf | None:
    """The leaf for a tensor of one of the frameworks in `VIEWED`; None where `value` is none, or has no values (in a graph)."""
    kind = type(value)
    if kind.__module__.partition(".")[0] not in VIEWED or not hasattr(kind, "__array__"):
        return None
    try:
        array = np.asarray(value)
    except Exception:  # noqa: BLE001 - symbolic, donated, on another machine: whatever the framework raises, it cannot be seen
        return None
    adapter = adapter_of(array)
    try:
        return None if adapter is None else Leaf(path, array, adapter, adapter.describe(array))
    except NotStorableError:  # texts
        return Leaf(path, array.tolist())


def _inside(value: Any, path: str, children: Children | None) -> list[tuple[Any, Any]] | None:
    """The values directly in `value` by key; None where it is a leaf."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (list, tuple, deque)):
        return list(enumerate(value))
    if isinstance(value, AbstractSet):
        return list(enumerate(sorted(value, key=repr)))
    if is_dataclass(value) and not isinstance(value, type):
        return [(one.name, getattr(value, one.name, None)) for one in fields(value)]
    held = children(value, path) if children is not None else None
    return None if held is None else list(held.items())


def digest(value: object, before: int = 0) -> int:
    """64 bits that tell whether a nested value is the same as in another process, chained to `before`.

    Of what cannot be looked into only the class counts.
    """
    hasher = xxhash.xxh3_64(seed=before)
    for leaf in leaves(value):
        hasher.update(leaf.path.encode())
        if leaf.info is None:
            hasher.update(leaf.text())
        else:
            hasher.update(leaf.kind.encode())
            hasher.update(leaf.content())
    return hasher.intdigest()


def fingerprint(value: object) -> str:
    """16 hexadecimal digits that tell batches apart, at a cost that does not grow with them: of large tensors only
    windows are read, of those on a device, or scattered over much memory, none."""
    hasher = xxhash.xxh3_64()
    for leaf in leaves(value):
        hasher.update(leaf.path.encode())
        if leaf.info is None:
            hasher.update(leaf.text())
            continue
        hasher.update(leaf.kind.encode())
        small = leaf.info.nbytes <= WHOLE
        if leaf.info.device is not None or (leaf.info.address is None and not small):
            continue
        content = leaf.content()
        if small:
            hasher.update(content)
        else:
            step = (len(content) - WINDOW) // (WINDOWS - 1)
            for number in range(WINDOWS):
                hasher.update(content[number * step : number * step + WINDOW])
    return hasher.hexdigest()
