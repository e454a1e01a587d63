"""Nested values -> their structure in JSON, tensors set aside. Used through `values` and `tree`."""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from milepost.core import classes, codecs
from milepost.core.brief import key_parts
from milepost.core.foreign import Foreign
from milepost.core.paths import Marked, below, escape
from milepost.core.scalars import EXACT, NATIVE, is_text
from milepost.errors import NotStorableError

MAX_DEPTH = 64
"""Containers within containers; the JSON is at most five times as deep."""

FACTORIES = {kind.__name__: kind for kind in (bool, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)}
"""What a stored defaultdict may call for a missing key."""

_GENERAL_HINT = "give the object that holds it state_dict() and load_state_dict(), or leave it out of the state"


def no_leaf(_: object) -> bool:
    """Nothing is a tensor."""
    return False


class Tensors(NamedTuple):
    """A dict of nothing but tensors as an earlier walk found it: its keys, the paths of its tensors, its JSON."""

    keys: tuple[Any, ...]
    paths: list[str]
    encoded: dict[str, Any]


class Encoder:
    """One walk over one value; `leaves` fills up with what `is_leaf` says is a tensor, by path.

    Args:
        is_leaf: whether an object is a tensor.
        known: what earlier walks over such values found, by path; this one adds to it. Half of the time goes into names, and most
            are the same objects from walk to walk.
    """

    def __init__(self, is_leaf: Callable[[Any], bool], known: dict[str, Tensors] | None = None) -> None:
        self.is_leaf = is_leaf
        self.leaves: dict[str, Any] = {}
        self._known = {} if known is None else known
        self._around: dict[int, str] = {}  # the containers around the current value: id -> path
        self._sealed = 0  # > 0 within `_plain`

    def value(self, value: Any, path: str) -> Any:
        """The JSON of `value`, which is at `path`."""
        kind = type(value)
        native = NATIVE.get(kind)
        if native is not None:
            return native(value)
        container = _CONTAINERS.get(kind)
        if container is None:
            if self.is_leaf(value):
                return self._leaf(value, path)
            codec = codecs.for_type(kind)
            if isinstance(codec, codecs.Codec):
                return self._scalar(codec, value, path)
            container = _container_of(value) if codec is None else None
            if container is None:
                raise _refused(value, path, codec)
        around = self._around
        if id(value) in around or len(around) >= MAX_DEPTH:
            raise self._too_deep(value, path)
        around[id(value)] = path
        encoded = container(self, value, path)
        del around[id(value)]
        return encoded

    def _plain(self, encode: Callable[[Any, str], Any], value: Any, path: str) -> Any:
        """The JSON of keys, elements of a set or what a scalar consists of: none of these has a path of its own."""
        self._sealed += 1
        try:
            encoded = encode(value, path)
        except NotStorableError as error:
            error.where = _shown(path)
            raise
        self._sealed -= 1
        return encoded

    def _leaf(self, value: Any, path: str) -> Any:
        if self._sealed:
            raise NotStorableError(
                "a tensor cannot be a key of a dict or an element of a set",
                where=_shown(path),
                hint="use a list, or a dict that has the tensor as a value",
            )
        self.leaves[path] = value
        return {"$tensor": path}

    def _too_deep(self, value: Any, path: str) -> NotStorableError:
        if id(value) not in self._around:
            return NotStorableError(f"values nested more than {MAX_DEPTH} levels deep cannot be stored", where=path)
        there = _shown(self._around[id(value)])
        return NotStorableError(
            "a value that contains itself cannot be stored",
            where=_shown(path),
            found=f"the same {type(value).__name__} as at {there}",
            hint="take the reference out, or give the object state_dict() and load_state_dict()",
        )

    # -- dicts ---------------------------------------------------------------------------------------------------------

    def _dict(self, value: Mapping[Any, Any], path: str) -> Any:
        if not value:
            return {}
        # Keys and values by one call, so that a thread that adds or removes a key cannot come between. They are of one
        # length; zip's own check of that takes a tenth of the whole walk.
        keys, items = zip(*value.items())  # noqa: B905
        if set(map(type, keys)) != {str}:
            return self._pairs(keys, items, path)
        known = self._known.get(path)
        if known is not None and known.keys == keys and all(map(self.is_leaf, items)) and not self._sealed:
            self.leaves.update(zip(known.paths, items))  # noqa: B905
            return known.encoded
        joined = "".join(keys)
        ordinary = joined.isascii() and not ("~" in joined or "/" in joined or "" in keys)
        if not (ordinary or is_text(joined)):
            return self._pairs(keys, items, path)
        parts = keys if ordinary else map(escape, keys)
        under = below(path)
        if all(map(self.is_leaf, items)) and not self._sealed:
            known = Tensors(keys, [under + part for part in parts], {"$tensors": {"under": path, "names": list(keys)}})
            self._known[path] = known
            self.leaves.update(zip(known.paths, items))  # noqa: B905
            return known.encoded
        if "$" in joined and any(key.startswith("$") for key in keys):
            return self._pairs(keys, items, path)
        encoded = {}
        for key, part, item in zip(keys, parts, items):  # noqa: B905
            native = NATIVE.get(type(item))
            encoded[key] = self.value(item, under + part) if native is None else native(item)
        return encoded

    def _pairs(self, keys: Iterable[Any], items: Iterable[Any], path: str) -> Any:
        names = self._plain(self._list, keys, path)
        under = below(path)
        pairs = zip(names, key_parts(names), items, strict=True)
        return {"$dict": [[name, self.value(item, under + part)] for name, part, item in pairs]}

    def _ordered(self, value: OrderedDict[Any, Any], path: str) -> Any:
        encoded = {"items": self._dict(value, path)}
        if vars(value):
            encoded["attributes"] = self._attributes(vars(value), path)
        return {"$ordered": encoded}

    def _defaultdict(self, value: defaultdict[Any, Any], path: str) -> Any:
        factory = value.default_factory
        name = getattr(factory, "__name__", "")
        if factory is not None and FACTORIES.get(name) is not factory:
            raise NotStorableError(
                "the factory of this defaultdict cannot be stored",
                where=path,
                expected="one of " + ", ".join(FACTORIES),
                found=_describe(factory),
                hint="store dict(x)",
            )
        return {"$defaultdict": {"items": self._dict(value, path), "factory": name or None}}

    def _counter(self, value: Counter[Any], path: str) -> Any:
        if vars(value):
            raise _refused(value, path, "attributes set on a Counter are not stored: remove them")
        return {"$counter": self._dict(value, path)}

    # -- sequences and sets --------------------------------------------------------------------------------------------

    def _list(self, value: Iterable[Any], path: str) -> list[Any]:
        items = list(value)
        if set(map(type, items)) == {int} and max(items) <= EXACT and min(items) >= -EXACT:
            return items  # permutations and states of random generators are long
        under = below(path)
        encoded = []
        for index, item in enumerate(items):
            native = NATIVE.get(type(item))
            encoded.append(self.value(item, f"{under}{index}") if native is None else native(item))
        return encoded

    def _tuple(self, value: tuple[Any, ...], path: str) -> Any:
        return {"$tuple": self._list(value, path)}

    def _deque(self, value: deque[Any], path: str) -> Any:
        encoded: dict[str, Any] = {"items": self._list(value, path)}
        if value.maxlen is not None:
            encoded["maxlen"] = value.maxlen
        return {"$deque": encoded}

    def _set(self, value: Iterable[Any], path: str) -> Any:
        return {"$set": self._elements(value, path)}

    def _frozenset(self, value: Iterable[Any], path: str) -> Any:
        return {"$frozenset": self._elements(value, path)}

    def _elements(self, value: Iterable[Any], path: str) -> list[Any]:
        """The elements in an order that does not depend on hashes, which differ from process to process."""
        items = list(value)
        alike = set(map(type, items)) in ({int}, {str})
        if alike:
            items.sort()
        encoded: list[Any] = self._plain(self._list, items, path)
        if not alike:
            encoded.sort(key=msgspec.json.encode)
        return encoded

    # -- classes of the script -----------------------------------------------------------------------------------------

    def _namedtuple(self, value: Any, path: str) -> Any:
        if getattr(value, "__dict__", None):
            raise _refused(value, path, "attributes set on a named tuple are not stored: make them fields")
        fields = dict(zip(type(value)._fields, value, strict=True))
        return {"$namedtuple": self._record(_class_of(value, path), fields, path)}

    def _dataclass(self, value: Any, path: str) -> Any:
        try:
            object.__new__(type(value))
        except TypeError:
            raise _refused(value, path, "a dataclass that is also a container or an exception is not stored") from None
        # What pickle would store, never asking the class: a pair where there are slots.
        state: Any = object.__getstate__(value)
        present: dict[str, Any] = {}
        for part in state if isinstance(state, tuple) else (state,):
            present.update(part or {})
        names = [field.name for field in dataclasses.fields(value)]
        fields = {name: present.pop(name) for name in names if name in present}
        unset = [name for name in names if name not in fields]
        return {"$dataclass": self._record(_class_of(value, path), fields, path, present, unset)}

    def _enum(self, value: Enum, path: str) -> Any:
        return {"$enum": {"class": _class_of(value, path), **member_json(value)}}

    def _record(
        self,
        class_name: str,
        fields: Mapping[str, Any],
        path: str,
        attributes: Mapping[str, Any] | None = None,
        unset: Iterable[str] = (),
    ) -> dict[str, Any]:
        encoded: dict[str, Any] = {"class": class_name, "fields": self._dict(fields, path)}
        if attributes:
            encoded["attributes"] = self._attributes(attributes, path)
        if unset:
            encoded["unset"] = list(unset)
        return encoded

    def _attributes(self, attributes: Mapping[str, Any], path: str) -> dict[str, Any]:
        encoded = {}
        for name, item in attributes.items():
            part = escape(Marked(name, "attribute"))
            if not (name.isidentifier() and is_text(name)):
                raise NotStorableError("this attribute has a name that is no name", where=below(path) + part)
            encoded[name] = self.value(item, below(path) + part)
        return encoded

    # -- scalars and stand-ins -----------------------------------------------------------------------------------------

    def _scalar(self, codec: codecs.Codec, value: Any, path: str) -> Any:
        try:
            plain = codec.encode(value)
        except ValueError as error:
            raise _refused(value, path, str(error)) from error
        return {"$" + codec.tag: self._plain(self.value, plain, path)}

    def _foreign(self, value: Foreign, path: str) -> Any:
        content = value.content
        if value.tag in ("namedtuple", "dataclass"):
            fields, attributes, unset = content["fields"], content.get("attributes"), content.get("unset", ())
            return {"$" + value.tag: self._record(content["class"], fields, path, attributes, unset)}
        return {"$" + value.tag: self.value(content, path)}


_CONTAINERS: dict[type, Callable[[Encoder, Any, str], Any]] = {
    dict: Encoder._dict,
    list: Encoder._list,
    tuple: Encoder._tuple,
    set: Encoder._set,
    frozenset: Encoder._frozenset,
    OrderedDict: Encoder._ordered,
    defaultdict: Encoder._defaultdict,
    Counter: Encoder._counter,
    deque: Encoder._deque,
    Foreign: Encoder._foreign,
}


def member_json(member: Enum) -> dict[str, Any]:
    """Name and value of a member of an enum; no value if that cannot be stored."""
    encoded: dict[str, Any] = {"name": member._name_}
    with suppress(NotStorableError):  # an enum of functions, say: the name is enough to find the member again
        encoded["value"] = Encoder(no_leaf).value(member._value_, "")
    return encoded


def _container_of(value: object) -> Callable[[Encoder, Any, str], Any] | None:
    """How a value of a class of the script is stored, None if it is not."""
    kind = type(value)
    if isinstance(value, Enum):
        return Encoder._enum
    if isinstance(value, tuple):
        names = getattr(kind, "_fields", None)
        return Encoder._namedtuple if isinstance(names, tuple) and len(names) == len(value) else None
    return Encoder._dataclass if dataclasses.is_dataclass(kind) else None


def _class_of(value: object, path: str) -> str:
    """The name under which the class of `value` will be found again."""
    kind = type(value)
    name = classes.name_of(kind)
    if classes.find(name) is not kind:
        raise _refused(value, path, "its class cannot be found again by that name: define it at the top of a module")
    if classes.attribute(kind, "__del__"):
        raise _refused(value, path, "a class with __del__ is not rebuilt from a file: give the object a state_dict")
    return name


def _describe(value: object) -> str:
    """What `value` is, without asking its own ``__repr__``."""
    if callable(value) and (name := getattr(value, "__qualname__", None)):
        return f"the {'class' if isinstance(value, type) else 'function'} {getattr(value, '__module__', '')}.{name}"
    return f"an object of class {type(value).__module__}.{type(value).__qualname__}"


def _refused(value: object, path: str, hint: str | None) -> NotStorableError:
    kind = type(value)
    if hint is None:
        plain = next((base.__name__ for base in kind.__mro__[1:] if base in NATIVE or base in _CONTAINERS), None)
        if hasattr(kind, "state_dict"):
            hint = "store what its state_dict() returns"
        elif plain is not None:
            hint = f"it would come back as a mere {plain}: store {plain}(x), or give it a state_dict"
        else:
            hint = _GENERAL_HINT
    return NotStorableError(
        "this value cannot be stored plainly", where=_shown(path), found=_describe(value), hint=hint
    )


def _shown(path: str) -> str:
    return path or "the value itself"
