"""What the names in pickles mean that are known: each is *done as if*, with arguments that were checked, and none is looked up.

Everything else becomes a `Thing`, which says what was named and with what, or is refused (see `milepost.formats.pickle_names`).
"""

from __future__ import annotations

import datetime
import pathlib
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.pickle_names import ALIASES, fault_of_call, fault_of_name
from milepost.formats.pickle_numpy import NUMPY
from milepost.formats.pickle_values import Dict, Global, Leaf, Long, Set, Thing, short_bytes

Call = Callable[..., Any]


class Names:
    """The `milepost.formats.pickle_stack.Meaning` of pickles that refer to nothing outside.

    Args:
        known: ``module:name`` -> what stands for a call of it; beside those of Python and numpy.
        constants: ``module:name`` -> what stands for the name itself.
    """

    def __init__(self, known: dict[str, Call] | None = None, constants: dict[str, Any] | None = None) -> None:
        self._known = {**_PYTHON, **NUMPY, "copyreg:_reconstructor": self._reconstructor, **(known or {})}
        self._constants = constants or {}

    def name(self, module: str, name: str) -> Any:
        named = Global(ALIASES.get(module, module), name)
        key = str(named)
        if key in self._constants:
            return self._constants[key]
        if key not in self._known and (fault := fault_of_name(named)) is not None:
            raise _refused("names", named, fault)
        return named

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        if not isinstance(function, Global):
            if isinstance(function, Thing):
                raise _refused("calls what it got from", function.cls, "is not called again by any checkpoint")
            raise FormatError("the pickle calls what is no function", found=type(function).__name__)
        known = self._known.get(str(function))
        if known is not None:
            return known(*args)
        if (fault := fault_of_call(function)) is not None:
            raise _refused("calls", function, fault)
        return Thing(function, args)

    def _reconstructor(self, cls: Any, base: Any, state: Any) -> Any:
        """How protocols before 2 make an object of a class; `state` is what its built-in base class is made of."""
        return self.call(cls, () if state is None else (state,))

    def persistent(self, key: Any) -> Any:
        raise FormatError("the pickle refers to an object that is not in it", found=repr(key)[:100])


def _refused(does: str, named: Global, why: str) -> UnsafeContentError:
    return UnsafeContentError(
        f"the pickle {does} {named.module[:100]}.{named.name[:100]}, which {why}",
        hint="nothing was run; keep the file away from torch.load and pickle",
    )


@cache
def _checked(kind: type, *wanted: type) -> Call:
    """``kind(*args)`` for a class that does nothing but hold what it is given, if the arguments are of the types `wanted`."""

    def make(*args: Any) -> Any:
        if any(type(arg) not in wanted for arg in args) or len(args) > 16:
            raise FormatError(f"a {kind.__name__} is made of what none consists of", found=repr(args)[:100])
        return kind(*args)

    return make


def _ordered(*args: Any) -> Any:
    if not args:
        return Dict()
    (items,) = args
    if isinstance(items, Dict):
        return Dict(list(items.flat))
    if type(items) is not list or any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in items):
        raise FormatError("an OrderedDict is made of what is no list of pairs")
    return Dict([part for pair in items for part in pair])


def _default_dict(factory: Any = None, *args: Any) -> Any:
    return _ordered(*args)


def _items(value: Any) -> list[Any]:
    if isinstance(value, Set):
        return list(value.items)
    if type(value) not in (list, tuple):
        raise FormatError("a list is expected", found=type(value).__name__)
    return list(value)


def _tuple(items: Any = ()) -> Any:
    return tuple(_items(items))


def _encode(text: Any, encoding: Any = "latin1") -> Any:
    """``_codecs.encode``, by which protocols before 3 store bytes."""
    if isinstance(text, Long) and text.kind == "str" and encoding == "latin1":
        return Long(text.data, "latin1")
    if type(text) is not str or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise FormatError("bytes in the pickle that cannot be read", found=repr(encoding)[:100])
    return text.encode(encoding)


def _bytes(value: Any = b"", encoding: Any = None) -> Any:
    if encoding is not None:
        return _encode(value, encoding)
    return value if isinstance(value, Long) else bytes(_items(value)) if type(value) is list else short_bytes(value)


def _bytearray(*args: Any) -> Any:
    made = _bytes(*args)
    return made if isinstance(made, Long) else bytearray(made)


def _attribute(holder: Any, name: Any, *default: Any) -> Any:
    """``getattr``, by which members of classes and of enums are pickled: the name of the member."""
    if not isinstance(holder, Global) or type(name) is not str or default:
        raise UnsafeContentError("the pickle reaches into an object with getattr", found=f"{name!r}"[:100])
    named = Global(holder.module, f"{holder.name}.{name}")
    if (fault := fault_of_name(named)) is not None:
        raise _refused("names", named, fault)
    return named


def _path(*parts: Any) -> Any:
    if any(type(part) is not str for part in parts):
        raise FormatError("a path is made of what is no text")
    return pathlib.PurePosixPath(*parts)


def _timezone(offset: Any, name: Any = None) -> Any:
    if not isinstance(offset, datetime.timedelta) or not isinstance(name, str | None):
        raise FormatError("a time zone without an offset")
    return datetime.timezone(offset) if name is None else datetime.timezone(offset, name)


def _moment(kind: type, length: int) -> Call:
    """A datetime, date or time, which pickles hold as packed bytes."""

    def make(packed: Any, zone: Any = None) -> Any:
        raw = short_bytes(packed)
        if len(raw) != length:
            raise FormatError(f"a {kind.__name__} of a wrong length", found=f"{len(raw)} bytes")
        return kind(raw, zone) if isinstance(zone, datetime.tzinfo) else kind(raw)

    return make


class _Uuid(Leaf):
    """A UUID; its number is set as its state."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def build(self, state: Any) -> None:
        number = state.get("int") if isinstance(state, Dict) else None
        if type(number) is not int or not 0 <= number < 2**128:
            raise FormatError("a UUID without a number")
        self.number = number

    def parts(self, path: str, where: str) -> Iterator[tuple[str, Any]]:
        yield "", uuid.UUID(int=self.number)


_PYTHON: dict[str, Call] = {
    "collections:OrderedDict": _ordered,
    "collections:Counter": _ordered,
    "collections:defaultdict": _default_dict,
    "collections:deque": lambda items=(), most=None: _items(items),
    "builtins:dict": _ordered,
    "builtins:list": lambda items=(): _items(items),
    "builtins:tuple": _tuple,
    "builtins:set": lambda items=(): Set(_items(items)),
    "builtins:frozenset": lambda items=(): Set(_items(items), frozen=True),
    "builtins:bytes": _bytes,
    "builtins:bytearray": _bytearray,
    "builtins:complex": _checked(complex, int, float),
    "builtins:int": _checked(int, int, bool),
    "builtins:float": _checked(float, int, float),
    "builtins:bool": _checked(bool, int, bool),
    "builtins:str": lambda text="": text if type(text) is str else _encode(text, "none"),
    "builtins:getattr": _attribute,
    "_codecs:encode": _encode,
    "datetime:datetime": _moment(datetime.datetime, 10),
    "datetime:date": _moment(datetime.date, 4),
    "datetime:time": _moment(datetime.time, 6),
    "datetime:timedelta": _checked(datetime.timedelta, int, float),
    "datetime:timezone": _timezone,
    "decimal:Decimal": _checked(Decimal, str),
    "fractions:Fraction": _checked(Fraction, int, str),
    "uuid:UUID": _Uuid,
    **dict.fromkeys(
        (
            f"pathlib:{kind}"
            for kind in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
        ),
        _path,
    ),
}
