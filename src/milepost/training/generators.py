"""Where in a script's objects its random generators are."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import types
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

from milepost.training.rng import is_generator_class, libraries

_NODES, _DEPTH = 2000, 40
_PLAIN, _OBJECTS = 64, 4
_LEAVES = (str, bytes, bytearray, memoryview, int, float, complex, type(None), type, types.ModuleType, np.ndarray,
           np.generic)  # fmt: skip
_CONTAINERS = (dict, list, tuple, deque)
_Reader = Callable[[Any], Iterable[tuple[str, object]]]
_Path = Any  # a name, or (path before, "." or "[", step): written out only where a generator is found


class Found(dict[str, object]):
    """Generators by path, such as ``dataset.transform.transforms[2].rng``; `complete` unless the search gave up."""

    complete = True


def find_generators(roots: Mapping[str, object], skip: Iterable[object] = ()) -> Found:
    """What a `Finder` finds, once."""
    return Finder(roots, skip).find()


class Finder:
    """Finds the random generators that the objects in `roots` hold, in a fixed order, each once.

    Attributes, slots, lists, tuples, dictionaries, partials, bound methods, defaults and closures are followed; no
    code of those objects runs. The search is bounded, since lists of a million samples are common: where a container
    begins with 64 plain values, or with 4 objects that are alike and hold none, the rest is taken to hold none either,
    and after 2,000 objects the search gives up. The generators behind global functions (``random.random``) do not
    count, and what is in `skip` is not looked into.

    Searching again costs a third as long as nothing was assigned to what was looked at.
    """

    def __init__(self, roots: Mapping[str, object], skip: Iterable[object] = ()) -> None:
        self._roots, self._skip = dict(roots), tuple(skip)
        self._last: _Search | None = None

    def find(self) -> Found:
        """What is there now; the same object as before where nothing has changed."""
        if self._last is None or not self._last.still_holds():
            self._last = _Search(self._skip)
            for name, root in self._roots.items():
                if not _is_leaf(type(root)):
                    self._last.visit(root, name, 0)
        return self._last.found

    def __getstate__(self) -> dict[str, object]:
        return {"_roots": self._roots, "_skip": self._skip, "_last": None}


class _Search:
    def __init__(self, skip: Iterable[object]) -> None:
        self.found = Found()
        self._left = _NODES
        # What was visited is held, lest the id of a passing object (a bound method) is given out again.
        self._seen: dict[int, object] = {id(thing): thing for thing in (*skip, *_global_generators())}
        self._live: list[tuple[Collection[object], int, tuple[object, ...]]] = []
        self._hidden: list[tuple[_Reader, object, tuple[object, ...]]] = []

    def still_holds(self) -> bool:
        """Whether everything that was looked at still holds the very same objects."""
        same = operator.is_
        return all(len(live) == size and all(map(same, live, before)) for live, size, before in self._live) and all(
            len(now := _values(reader, value)) == len(before) and all(map(same, now, before))
            for reader, value, before in self._hidden
        )

    def visit(self, value: object, path: _Path, depth: int) -> bool:
        """Search `value`; returns whether no generator is below it."""
        cls = type(value)
        if id(value) in self._seen:
            return not _is_generator(cls)
        self._seen[id(value)] = value
        if _is_generator(cls):
            self.found[_text(path)] = value
            return False
        self._left -= 1
        if self._left < 0 or depth > _DEPTH:
            self.found.complete = False
            return False
        none = self._visit_items(value, path, depth) if isinstance(value, _CONTAINERS) else True
        if cls in _CONTAINERS:
            return none
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            none &= self._visit_attributes(attributes, path, depth)
        hidden = _hidden(cls)
        if hidden is not None:
            self._hidden.append((hidden, value, _values(hidden, value)))
            for name, child in hidden(value):
                if not _is_leaf(type(child)):
                    none &= self.visit(child, (path, ".", name), depth + 1)
        return none

    def _visit_attributes(self, attributes: dict[str, object], path: _Path, depth: int) -> bool:
        none = True
        self._live.append((attributes.values(), len(attributes), tuple(attributes.values())))
        for name, child in tuple(attributes.items()):
            if not _is_leaf(type(child)):
                none &= self.visit(child, (path, ".", name), depth + 1)
        return none

    def _visit_items(self, items: Any, path: _Path, depth: int) -> bool:
        none, visited, classes, looked_at = True, 0, set[type](), []
        for number, (key, child) in enumerate(_beginning(items)):
            if none and ((visited == _OBJECTS and len(classes) == 1) or (number == _PLAIN and not visited)):
                break
            looked_at.append(child)
            if not _is_leaf(type(child)):
                visited += 1
                classes.add(type(child))
                step = key if isinstance(key, (str, int)) else number
                none &= self.visit(child, (path, "[", step), depth + 1)
        else:
            self.found.complete &= len(looked_at) == len(items)
        if type(items) is not tuple:
            live = dict.values(items) if isinstance(items, dict) else items
            self._live.append((live, len(live), tuple(looked_at)))
        return none


def _beginning(items: Any) -> tuple[tuple[object, object], ...]:
    """The first keys and values, taken in one go: another thread of the dataset may be changing it."""
    for count in (_PLAIN + 1, _NODES):
        taken = tuple(itertools.islice(dict.items(items) if isinstance(items, dict) else enumerate(items), count))
        if all(_is_leaf(type(value)) for _, value in taken):
            break
    return taken


def _values(reader: _Reader, value: object) -> tuple[object, ...]:
    return tuple(child for _, child in reader(value))


def _text(path: _Path) -> str:
    if path is None or isinstance(path, str):
        return path or ""
    before, mark, step = path
    return _text(before) + (f".{step}" if mark == "." else f"[{step!r}]")


@functools.cache
def _global_generators() -> tuple[object, ...]:
    return tuple(generator for library in libraries() for generator in library.global_generators())


_Result = TypeVar("_Result")


def _by_class(function: Callable[[type], _Result]) -> Callable[[type], _Result]:
    return cast("Callable[[type], _Result]", functools.lru_cache(maxsize=4096)(function))


_is_generator = _by_class(is_generator_class)


@_by_class
def _is_leaf(cls: type) -> bool:
    return issubclass(cls, _LEAVES) or (cls.__name__ == "Tensor" and cls.__module__ == "torch")


@_by_class
def _hidden(cls: type) -> _Reader | None:
    """How to come at what objects of class `cls` hold outside ``__dict__``."""
    if issubclass(cls, functools.partial):
        return lambda value: (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    if issubclass(cls, types.MethodType):
        return lambda value: (("__self__", value.__self__), ("__func__", value.__func__))
    if issubclass(cls, types.FunctionType):
        return _function
    slots = {name: slot for base in cls.__mro__ if base.__module__ != "builtins" for name, slot in vars(base).items()
             if isinstance(slot, types.MemberDescriptorType)}  # fmt: skip
    return functools.partial(_slots, slots) if slots else None


def _function(function: types.FunctionType) -> Iterable[tuple[str, object]]:
    yield "__defaults__", function.__defaults__
    yield "__kwdefaults__", function.__kwdefaults__
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that nothing was assigned to yet
            yield name, cell.cell_contents


def _slots(slots: Mapping[str, types.MemberDescriptorType], value: object) -> Iterable[tuple[str, object]]:
    for name, slot in slots.items():
        with contextlib.suppress(AttributeError):  # a slot that nothing was assigned to yet
            yield name, slot.__get__(value)
