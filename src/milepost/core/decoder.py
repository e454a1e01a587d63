"""The structure of nested values -> the values. Used through `values` and `tree`.

A structure may come from a hostile file: whatever is in it, the outcome is a value or a `FormatError`. Of classes that
the file names, nothing is run but ``__hash__`` and ``__eq__`` where it has their objects as keys.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from enum import Enum, Flag
from types import MemberDescriptorType
from typing import Any

import msgspec

from milepost.core import classes, codecs, shapes
from milepost.core.brief import is_tagged, key_parts
from milepost.core.encoder import FACTORIES, MAX_DEPTH, member_json
from milepost.core.foreign import Foreign
from milepost.core.paths import Marked, below, escape
from milepost.core.scalars import NATIVE
from milepost.core.shapes import fit
from milepost.errors import FormatError

DEEPEST = 2 * MAX_DEPTH + 8
"""Levels of a structure that can be read; some values take two, as an OrderedDict and its items do."""


class Decoder:
    """One walk over one structure; `build` makes the tensor of a path, None where there are to be no tensors."""

    def __init__(self, build: Callable[[str], Any] | None) -> None:
        self._build = build
        self._depth = 0

    def value(self, node: Any, path: str) -> Any:
        """The value that `node`, which is at `path`, encodes."""
        kind = type(node)
        if kind in NATIVE:
            return node
        if self._depth > DEEPEST:
            raise FormatError("values are nested deeper than milepost nests them", where=path)
        self._depth += 1
        if kind is list:
            value: Any = self._list(node, path)
        elif kind is dict:
            value = self._object(node, path)
        else:
            raise FormatError("not a value in JSON", where=path, found=kind.__name__)
        self._depth -= 1
        return value

    def _plain(self, node: Any, path: str) -> Any:
        """The value of `node`, which is part of a key, of an element of a set or of a scalar: no tensors are in it."""
        build, self._build = self._build, None
        value = self.value(node, path)
        self._build = build
        return value

    def _list(self, nodes: list[Any], path: str) -> list[Any]:
        under = below(path)
        return [self.value(node, f"{under}{index}") for index, node in enumerate(nodes)]

    def _object(self, node: dict[str, Any], path: str) -> Any:
        if is_tagged(node):
            ((tag, payload),) = node.items()
            container = _CONTAINERS.get(tag[1:])
            return container(self, payload, path) if container else self._scalar(tag[1:], payload, path)
        under = below(path)
        value = {}
        for key, item in node.items():
            if type(key) is not str or key.startswith("$"):
                raise FormatError("not a key that milepost writes", where=path, found=repr(key))
            value[key] = self.value(item, under + escape(key))
        return value

    def _mapping(self, node: Any, path: str) -> dict[Any, Any]:
        value = self.value(node, path)
        if type(value) is not dict:
            raise FormatError("not a dict", where=path, found=type(value).__name__)
        return value

    def _scalar(self, tag: str, payload: Any, path: str) -> Any:
        codec = codecs.for_tag(tag)
        home, dot, _ = tag.partition(".")
        if codec is None and not dot:
            raise FormatError(f"a kind of value that is not known: {tag}", where=path, hint="update milepost")
        plain = self._plain(payload, path)
        if codec is None:
            return Foreign(tag, plain, f"{home} is not loaded, or milepost does not know this kind of value")
        try:
            return codec.decode(fit(plain, codec.shape, path, tag))
        except LookupError as error:
            return Foreign(tag, plain, str(error))
        except (TypeError, ValueError, ArithmeticError, RuntimeError, OSError) as error:
            raise FormatError(f"what is stored under ${tag} is no value", where=path, found=error) from error

    # -- tensors -------------------------------------------------------------------------------------------------------

    def _tensor(self, payload: Any, path: str) -> Any:
        if type(payload) is not str or self._build is None:
            raise FormatError("a tensor where none can be", where=path)
        return self._build(payload)

    def _tensors(self, payload: Any, path: str) -> dict[str, Any]:
        stored: shapes.Tensors = fit(payload, shapes.Tensors, path, "tensors")
        under = below(stored.under)
        return self._unique(stored.names, [self._tensor(under + escape(name), path) for name in stored.names], path)

    # -- containers ----------------------------------------------------------------------------------------------------

    def _dict(self, payload: Any, path: str) -> dict[Any, Any]:
        pairs = fit(payload, shapes.Pairs, path, "dict")
        nodes = [key for key, _ in pairs]
        keys = [self._plain(node, path) for node in nodes]
        under = below(path)
        parts = key_parts(nodes)
        items = [self.value(item, under + part) for part, (_, item) in zip(parts, pairs, strict=True)]
        return self._unique(keys, items, path)

    def _unique(self, keys: Iterable[Any], items: list[Any], path: str) -> dict[Any, Any]:
        try:
            value = dict(zip(keys, items, strict=True))
        except (TypeError, ValueError, AttributeError) as error:
            raise FormatError("a key or an element that cannot be one", where=path, found=error) from error
        if len(value) != len(items):
            raise FormatError("a key or an element that is there twice", where=path)
        return value

    def _tuple(self, payload: Any, path: str) -> tuple[Any, ...]:
        return tuple(self._list(fit(payload, list[Any], path, "tuple"), path))

    def _set(self, payload: Any, path: str) -> set[Any]:
        elements = [self._plain(node, path) for node in fit(payload, list[Any], path, "set")]
        return set(self._unique(elements, elements, path))

    def _frozenset(self, payload: Any, path: str) -> frozenset[Any]:
        return frozenset(self._set(payload, path))

    def _deque(self, payload: Any, path: str) -> deque[Any]:
        stored: shapes.Deque = fit(payload, shapes.Deque, path, "deque")
        if stored.maxlen is not None and not len(stored.items) <= stored.maxlen <= sys.maxsize:
            raise FormatError("a deque with a wrong length", where=path, found=f"maxlen {stored.maxlen}")
        return deque(self._list(stored.items, path), stored.maxlen)

    def _ordered(self, payload: Any, path: str) -> OrderedDict[Any, Any]:
        stored: shapes.Ordered = fit(payload, shapes.Ordered, path, "ordered")
        value = OrderedDict(self._mapping(stored.items, path))
        for name, item in self._attributes(stored.attributes, path).items():
            if hasattr(OrderedDict, name):
                raise FormatError("an attribute that an OrderedDict cannot be given", where=path, found=name)
            setattr(value, name, item)
        return value

    def _defaultdict(self, payload: Any, path: str) -> defaultdict[Any, Any]:
        stored: shapes.DefaultDict = fit(payload, shapes.DefaultDict, path, "defaultdict")
        if stored.factory is not None and stored.factory not in FACTORIES:
            raise FormatError("a factory that milepost does not store", where=path, found=stored.factory)
        factory = None if stored.factory is None else FACTORIES[stored.factory]
        return defaultdict(factory, self._mapping(stored.items, path))

    def _counter(self, payload: Any, path: str) -> Counter[Any]:
        return Counter(self._mapping(payload, path))

    def _attributes(self, stored: dict[str, Any], path: str) -> dict[str, Any]:
        under = below(path)
        return {name: self.value(node, under + escape(Marked(name, "attribute"))) for name, node in stored.items()}

    # -- classes of the script -----------------------------------------------------------------------------------------

    def _enum(self, payload: Any, path: str) -> Any:
        stored: shapes.Member = fit(payload, shapes.Member, path, "enum")
        content = self._plain(payload, path)
        found = classes.find(stored.class_)
        if found is None or not issubclass(found, Enum):
            return Foreign("enum", content, _NOT_LOADED)
        member = _flags(found, content.get("value")) if issubclass(found, Flag) else _member(found, stored)
        return Foreign("enum", content, "the class has no such member now") if member is None else member

    def _namedtuple(self, payload: Any, path: str) -> Any:
        stored: shapes.Record = fit(payload, shapes.Record, path, "namedtuple")
        fields = self._mapping(stored.fields, path)
        found = classes.find(stored.class_)
        if found is None or not issubclass(found, tuple) or classes.attribute(found, "__del__"):
            why = _NOT_LOADED
        elif classes.attribute(found, "_fields") != tuple(fields):
            why = _CHANGED
        else:
            return tuple.__new__(found, fields.values())
        return Foreign("namedtuple", {"class": stored.class_, "fields": fields}, why)

    def _dataclass(self, payload: Any, path: str) -> Any:
        stored: shapes.DataRecord = fit(payload, shapes.DataRecord, path, "dataclass")
        fields = self._mapping(stored.fields, path)
        attributes = self._attributes(stored.attributes, path)
        found = classes.find(stored.class_)
        declared = None if found is None else classes.attribute(found, "__dataclass_fields__")
        if found is None or not isinstance(declared, dict) or classes.attribute(found, "__del__"):
            why = _NOT_LOADED
        elif {field.name for field in dataclasses.fields(found)} != {*fields, *stored.unset}:
            why = _CHANGED
        else:
            try:
                return _make(found, {**fields, **attributes})
            except (TypeError, AttributeError) as error:
                why = f"an object of the class cannot be made from these: {error}"
        content: dict[str, Any] = {"class": stored.class_, "fields": fields}
        if attributes:
            content["attributes"] = attributes
        if stored.unset:
            content["unset"] = stored.unset
        return Foreign("dataclass", content, why)


_NOT_LOADED = "no such class is loaded"
_CHANGED = "the class has other fields now"

_CONTAINERS: dict[str, Callable[[Decoder, Any, str], Any]] = {
    "tensor": Decoder._tensor,
    "tensors": Decoder._tensors,
    "dict": Decoder._dict,
    "tuple": Decoder._tuple,
    "set": Decoder._set,
    "frozenset": Decoder._frozenset,
    "deque": Decoder._deque,
    "ordered": Decoder._ordered,
    "defaultdict": Decoder._defaultdict,
    "counter": Decoder._counter,
    "enum": Decoder._enum,
    "namedtuple": Decoder._namedtuple,
    "dataclass": Decoder._dataclass,
}


def _member(found: type[Enum], stored: shapes.Member) -> Enum | None:
    """The member of this name, if it has the stored value still."""
    member = found._member_map_.get(stored.name or "")
    if member is None or member_json(member).get("value", msgspec.UNSET) != stored.value:
        return None
    return member


def _flags(found: type[Flag], value: object) -> Flag | None:
    """The member or combination with this value. The class itself is not asked: its ``_missing_`` may do anything."""
    if type(value) is not int:
        return None
    member = found._value2member_map_.get(value)
    if member is None:
        try:
            member = Flag._missing_.__func__(found, value)  # type: ignore[attr-defined]
        except ValueError:
            return None
    return member if isinstance(member, found) and member._value_ == value else None


def _make(found: type, state: dict[str, Any]) -> object:
    """An object of class `found` with these attributes, made without running any code of the class."""
    made: object = object.__new__(found)
    for name, value in state.items():
        holder = classes.attribute(found, name)
        if isinstance(holder, MemberDescriptorType):  # a slot
            holder.__set__(made, value)
        else:
            object.__getattribute__(made, "__dict__")[name] = value  # also past properties, and where it is frozen
    return made
