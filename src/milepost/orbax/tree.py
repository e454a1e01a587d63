"""What is in a source, as a tree that Orbax can save: described in JSON, with the paths of arrays where they are.

A node is ``["dict", {key: node}]``, ``["list", [node]]``, ``["tuple", [node]]``, ``["named", name, {field: node}]``,
``["array", path, variant]`` or ``["value", value]``. The variant of an array is ``numpy``, ``jax``, or ``key<KIND>`` for the data
of typed keys of `jax.random`.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from milepost.core import tree
from milepost.core.foreign import Foreign
from milepost.core.paths import Marked, below, escape, split
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import NotFoundError, NotStorableError
from milepost.formats.orbax import Orbax
from milepost.ops.matching import pattern
from milepost.ops.refs import own
from milepost.training.items import RESERVED

Node = list[Any]
LEAVES = ("array", "value")
_INT64 = range(-(2**63), 2**63)
_WHOLE = (list, tuple, deque)


class Tree(NamedTuple):
    """A tree: its node, what of it is a tensor of the source or an array of its own, and the plain values, by path."""

    node: Node
    tensors: dict[str, TensorSpec]
    arrays: dict[str, npt.NDArray[Any]]
    values: dict[str, Any]
    left_out: tuple[str, ...]


class _Tensor(NamedTuple):
    path: str


def tree_of(source: TensorSource, only: str | None, leave_out: Sequence[str]) -> Tree:
    """The tree of all that `source` holds, but for what milepost keeps for itself.

    Args:
        source: a checkpoint.
        only: a path; what is at it is then the whole tree, and paths begin there.
        leave_out: paths or patterns; what they name is not there (None in the place of an element of a sequence).

    Raises:
        NotFoundError: nothing is at `only`.
        NotStorableError: a value that Orbax has no place for; the error names its path.
    """
    value, left_out = _value_of(source)
    start = ""
    if only is not None:
        value, start, left_out = _at(value, only, source.where), below(only), []
    builder = _Builder(source, [pattern(text).fullmatch for text in leave_out], start)
    node = builder.node(value, "")
    if node is None or (node[0] not in LEAVES and not node[-1]):
        raise NotFoundError("there is nothing to export", where=source.where, hint="Orbax saves no empty state")
    return Tree(node, builder.tensors, builder.arrays, builder.values, (*left_out, *builder.left_out))


def _value_of(source: TensorSource) -> tuple[Any, list[str]]:
    """The nested value, with a `_Tensor` for each tensor; and what is not in it."""
    checkpoint = own(source)
    if checkpoint is not None:
        items = {name: one for name, one in checkpoint.manifest.items.items() if name != RESERVED}
        return {name: tree.unflatten(one, _Tensor, name) for name, one in items.items()}, [RESERVED]
    nested: dict[str, Any] = {}
    for path, value in [*((path, _Tensor(path)) for path in source.specs), *source.plain.items()]:
        _put(nested, path, value)
    sequences = source.sequences if isinstance(source, Orbax) else frozenset()
    for path in sorted(sequences, key=len, reverse=True):  # what is inside before what is around it
        nested = _listed(nested, list(split(path)))
    return nested, []


def _listed(value: Any, keys: list[Any]) -> Any:
    """`value` with what is at `keys` made a list, if the keys in it are those of one."""
    if keys and isinstance(value, dict) and keys[0] in value:
        return value | {keys[0]: _listed(value[keys[0]], keys[1:])}
    if not keys and isinstance(value, dict) and set(value) == set(map(str, range(len(value)))):
        return [value[str(index)] for index in range(len(value))]
    return value


def _put(nested: dict[str, Any], path: str, value: Any) -> None:
    *above, last = [part.text if isinstance(part, Marked) else part for part in split(path)] or [""]
    here: Any = nested
    for part in above:
        here = here.setdefault(part, {}) if isinstance(here, dict) else None
    if not isinstance(here, dict) or last in here:
        raise NotStorableError("two values have one place in a tree", where=path)
    here[last] = value


def _at(value: Any, path: str, where: str) -> Any:
    for part in path.split("/"):
        inside = dict(_entries(value) or [])
        if part not in inside:
            raise NotFoundError(f"there is nothing at {path!r}", where=where, found=", ".join(inside) or "no values")
        value = inside[part]
    return value


def _entries(value: Any) -> list[tuple[str, Any]] | None:
    """What is directly in `value`, by the part of the path; None if it is no container of others."""
    named = _fields(value)
    if named is not None:
        return [(escape(name), inner) for name, inner in named[1].items()]
    if isinstance(value, Mapping):
        return [(escape(str(key)), inner) for key, inner in value.items()]
    if isinstance(value, _WHOLE) and not isinstance(value, _Tensor):
        return [(str(index), inner) for index, inner in enumerate(value)]
    return None


def _fields(value: Any) -> tuple[str, dict[str, Any], bool] | None:
    """Name, fields, and whether it is a named tuple, of one or of a dataclass, whether its class is loaded or not."""
    if isinstance(value, Foreign) and value.tag in ("namedtuple", "dataclass"):
        name = str(value.content["class"]).rpartition(":")[2].rpartition(".")[2]
        return name, dict(value.content["fields"]), value.tag == "namedtuple"
    if isinstance(value, tuple) and hasattr(value, "_fields") and not isinstance(value, _Tensor):
        return type(value).__name__, dict(zip(value._fields, value, strict=True)), True
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Foreign):
        return type(value).__name__, {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}, False
    return None


class _Builder:
    def __init__(self, source: TensorSource, leave_out: Iterable[Callable[[str], Any]], start: str) -> None:
        self._source, self._leave_out, self._start = source, list(leave_out), start
        self.tensors: dict[str, TensorSpec] = {}
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.values: dict[str, Any] = {}
        self.left_out: list[str] = []
        self._names: dict[str, str] = {}

    def node(self, value: Any, path: str) -> Node | None:
        """The node of `value`; None if it is to be left out."""
        full = self._start + path
        if any(fits(full) for fits in self._leave_out):
            self.left_out.append(full)
            return None
        if isinstance(value, _Tensor):
            return self._tensor(value, path)
        entries = _entries(value)
        return self._scalar(value, path) if entries is None else self._container(value, entries, path)

    def _container(self, value: Any, entries: list[tuple[str, Any]], path: str) -> Node:
        named = _fields(value)
        sequence = named is None and isinstance(value, _WHOLE)
        keys = [] if sequence else self._keys(named[1] if named else value, path)
        nodes = [self.node(inner, below(path) + part) for part, inner in entries]
        # What is left out of a sequence or a record leaves its place to nothing.
        whole = [["value", None] if node is None else node for node in nodes]
        if named is not None and named[2]:
            return ["named", named[0], dict(zip(keys, whole, strict=True))]
        inside: Any = whole
        kind = "tuple" if isinstance(value, tuple) else "list"
        if not sequence:
            inside = {key: node for key, node in zip(keys, nodes, strict=True) if node is not None}
            kind = "dict"
        if not inside:
            self.values[path] = {"tuple": (), "list": [], "dict": {}}[kind]
        return [kind, inside]

    def _keys(self, keys: Iterable[Any], path: str) -> list[str]:
        found = [self._key(key, path) for key in keys]
        if len(set(found)) != len(found):
            raise self._refused(path, "two keys have one text, which is all that Orbax keeps of them")
        return found

    def _key(self, key: Any, path: str) -> str:
        if type(key) not in (str, int):
            raise self._refused(path, "Orbax keeps keys that are text or ints", key)
        return str(key)

    def _tensor(self, tensor: _Tensor, path: str) -> Node:
        spec = self._source.specs[tensor.path]
        if spec.dtype.numpy is None:
            raise self._refused(path, f"JAX has no arrays of type {spec.dtype.name}")
        if 0 in spec.shape:
            raise self._refused(path, "Orbax saves no arrays without elements")
        self._name(path)
        self.tensors[path] = spec
        return ["array", path, self._variant(tensor.path)]

    def _variant(self, path: str) -> str:
        checkpoint = own(self._source)
        if checkpoint is not None:
            tensor = checkpoint.manifest.tensors[path]
            keys = tensor.variant is not None and tensor.variant.startswith("key<")
            return str(tensor.variant) if keys else "jax" if tensor.type == "jax" else "numpy"
        if not isinstance(self._source, Orbax) or path not in self._source.of_jax:
            return "numpy"
        kind = self._source.of_jax[path]
        return "jax" if kind is None else f"key<{kind}>"

    def _scalar(self, value: Any, path: str) -> Node:
        """A plain value; numpy's keep their type as arrays without dimensions."""
        if isinstance(value, np.generic):
            self._name(path)
            self.arrays[path] = np.asarray(value)
            return ["array", path, "numpy"]
        if type(value) is int and value not in _INT64:
            raise self._refused(path, "Orbax saves ints of 64 bits", value)
        if value is not None and type(value) not in (bool, int, float, str):
            raise self._refused(path, f"Orbax has no place for a value of kind {type(value).__name__}", value)
        if value is not None and type(value) is not str:
            self._name(path)
        self.values[path] = value
        return ["value", value]

    def _name(self, path: str) -> None:
        """Take the name under which Orbax writes an array or a number: two with the same one would silently be mixed up."""
        name = path.replace("/", ".")
        if name in self._names:
            raise self._refused(path, f"Orbax joins keys with dots, and would write it over {self._names[name]!r}")
        self._names[name] = path

    def _refused(self, path: str, why: str, found: Any = None) -> NotStorableError:
        where = self._start + path
        return NotStorableError(
            why, where=where, found=None if found is None else repr(found)[:100],
            hint=f"leave_out=[{where!r}] exports the rest",
        )  # fmt: skip
