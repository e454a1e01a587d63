"""What the pickle machine makes: values that only say what the pickle says. None of them does anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy.typing as npt

from milepost.core.source import TensorSpec
from milepost.errors import FormatError
from milepost.formats.place import Readable


class Global(NamedTuple):
    """A class, function or constant that the pickle names. It is a name and nothing more."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


class Long:
    """Bytes or text too long to be read before anybody asks.

    `kind` is ``bytes``, ``str``, or ``latin1``: text whose characters are bytes, as protocols before 3 have them.
    """

    __slots__ = ("data", "kind")

    def __init__(self, data: Readable, kind: str) -> None:
        self.data, self.kind = data, kind

    def read(self) -> bytes:
        """All of it, as bytes."""
        raw = self.data.read(0, self.data.size)
        return raw if self.kind != "latin1" else raw.decode("utf-8", "surrogatepass").encode("latin1")


class Dict:
    """A dict of any kind. Keys are not hashed: a file could make that slow, or overflow the stack.

    `flat` is key, value, key, value ...; of a key that is there twice the later value counts. `attributes` are what was set on it
    (`Dict` again), as torch sets ``_metadata`` on a state_dict.
    """

    __slots__ = ("attributes", "flat")

    def __init__(self, flat: list[Any] | None = None) -> None:
        self.flat: list[Any] = [] if flat is None else flat
        self.attributes: Dict | None = None

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Keys with their values, in order."""
        flat = iter(self.flat)
        return zip(flat, flat, strict=True)

    def get(self, name: str, default: Any = None) -> Any:
        """The value at the string `name`."""
        found = default
        for key, value in self.pairs():
            if type(key) is str and key == name:
                found = value
        return found

    def named(self) -> dict[str, Any]:
        """What is at keys that are strings."""
        return {key: value for key, value in self.pairs() if type(key) is str}


class Set:
    """A set or frozenset; `items` may have equal ones."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[Any], *, frozen: bool = False) -> None:
        self.items, self.frozen = items, frozen


class Thing:
    """An object of a class that is only named: what it was made with, and what was then put into it.

    `args` were given to the class or function, `state` was set on it, `items` were appended and `pairs` stored under keys.
    """

    __slots__ = ("args", "cls", "items", "pairs", "state")

    def __init__(self, cls: Global, args: tuple[Any, ...]) -> None:
        self.cls, self.args = cls, args
        self.state: list[Any] = []  # none, or the one there is
        self.items: list[Any] = []
        self.pairs = Dict()

    def fields(self) -> dict[str, Any]:
        """What was set on it, by name: its ``__dict__``, and slots."""
        found: dict[str, Any] = {}
        for state in self.state:
            for part in state if type(state) is tuple and len(state) == 2 else (state,):
                if isinstance(part, Dict):
                    found |= part.named()
        return found


class Known:
    """A value of a kind that is understood. `build` is what the BUILD opcode does to it."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Set `state` on it.

        Raises:
            FormatError: a state that no such value has.
        """
        raise FormatError(f"a {type(self).__name__} is given a state")


class Stored(NamedTuple):
    """An array: what it is, and how it is read. The array is an own one, in C order. `stands` as `FormatSource._stands`."""

    spec: TensorSpec
    read: Callable[[], npt.NDArray[Any]]
    stands: Callable[[], tuple[Readable, int] | None] = lambda: None


class Leaf(Known, ABC):
    """A value that stands for arrays, and for plain values that belong to them."""

    __slots__ = ()

    @abstractmethod
    def parts(self, path: str, where: str) -> Iterator[tuple[str, Any]]:
        """A mark (``""`` for the value itself) and a `Stored` or plain value for each.

        Args:
            path: where the value is, for errors.
            where: the file, for errors.

        Raises:
            FormatError: there can be no such array.
        """


def short_bytes(value: Any) -> bytes:
    """`value` if it is bytes at hand; `FormatError` otherwise."""
    if isinstance(value, str):  # as Python 2 pickled them
        return value.encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise FormatError("bytes are expected", found=type(value).__name__)
    return bytes(value)
