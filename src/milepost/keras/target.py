"""Keras models as targets of `milepost.transfer`, on any backend: their weights, by the names that versions of Keras give them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.layout import nbytes
from milepost.core.paths import Marked, split
from milepost.core.source import TensorSpec
from milepost.errors import FormatError, MismatchError, ScriptError
from milepost.keras.items import synced
from milepost.keras.variables import assign, host, named
from milepost.ops.counterparts import Slot

_LISTS = frozenset({"layers", "variables", "trainable_variables", "non_trainable_variables"})
"""Of a model, as its files name them."""
_COUNTED = re.compile(r"layer(_with_weights)?-(\d{1,6})")


def make_target(value: Any, *, everything: bool = False) -> VariablesTarget | None:
    """A Keras model, layer, optimizer or metric; None for others."""
    if isinstance(value, (keras.optimizers.Optimizer, keras.metrics.Metric)):
        return VariablesTarget(value, value.variables, weights=False)
    if isinstance(value, (keras.layers.Layer, keras.Model)):
        return VariablesTarget(value, value.variables if everything else value.weights, weights=not everything)
    return None


class VariablesTarget:
    """A Keras object with variables.

    Args:
        owner: the object.
        variables: those that are loaded.
        weights: see `milepost.ops.counterparts.Target`.
    """

    def __init__(self, owner: Any, variables: Any, *, weights: bool) -> None:
        synced(owner)
        self.where = f"the {type(owner).__name__} {owner.name!r}"
        self.weights = weights
        self._owner = owner
        self._variables = named({id(one): one for one in variables}.values())
        if not self._variables:
            raise ScriptError(
                f"{self.where} has no variables yet", hint="build it first: model.build(input_shape), or call it on a batch"
            )  # fmt: skip
        self.slots = {name: Slot(name, _spec(one)) for name, one in self._variables.items()}
        self._steps: dict[tuple[int, str], tuple[Any, Any]] = {}  # with the node, so that its id stays its own
        self._names = {id(one): name for name, one in self._variables.items()}
        self.numbered: list[Mapping[str, str]] = [{name: name for name in self.slots}]
        for spelled in (lambda name: name.partition("/")[2], lambda name: "/".join(name.split("/")[-2:])):
            spelling = {spelled(name): name for name in self.slots}
            if "" not in spelling and len(spelling) == len(self.slots):
                self.numbered.append(spelling)

    def find(self, path: str) -> str | None:
        for spelling in self.numbered:
            if path in spelling:
                return spelling[path]
        try:
            parts = split(path)
        except FormatError:
            return None
        node = self._owner
        for part in parts:
            node = self._step(node, part.text if isinstance(part, Marked) else part)
            if node is None:
                return None
        return self._names.get(id(node))

    def _step(self, node: Any, name: str) -> Any:
        if (id(node), name) not in self._steps:
            self._steps[id(node), name] = node, _step(node, name)
        return self._steps[id(node), name][1]

    def live(self, name: str) -> Any:
        return self._variables[name]

    def load(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        before = {}
        try:
            for name, value in values.items():
                before[name] = host(self._variables[name]).copy()
                assign(self._variables[name], value)
        except Exception as error:
            for name, value in before.items():
                assign(self._variables[name], value)
            raise MismatchError(f"{self.where} refused a value: {error}", where=name) from error


def _spec(variable: Any) -> TensorSpec:
    kind, shape = dtypes.dtype(keras.backend.standardize_dtype(variable.dtype)), tuple(variable.shape)
    return TensorSpec(kind, shape, nbytes(kind, shape))


def _step(node: Any, name: str) -> Any:
    """What a library of Keras calls `name` in `node`: an attribute, one of its layers by number, one of its variables by name or
    number; None if there is none. Only dictionaries and lists are looked into."""
    if isinstance(node, (list, tuple)):
        if name.isdecimal() and len(name) < 7:
            return node[int(name)] if int(name) < len(node) else None
        return _by_class(node).get(name)
    if isinstance(node, dict):
        return node.get(name)
    attributes = getattr(node, "__dict__", {})
    if isinstance(node, keras.Model):
        if counted := _COUNTED.fullmatch(name):  # tf.keras
            return _step([layer for layer in node.layers if not counted[1] or layer.weights], counted[2])
        if name in _LISTS:
            return getattr(node, name)
    if isinstance(node, keras.layers.Layer):
        variables = [*attributes.get("_trainable_variables", ()), *attributes.get("_non_trainable_variables", ())]
        if name == "vars":
            return variables
        for one in variables:
            if one.name == name:
                return one
    inner = attributes.get("_modules") or {}  # where torch keeps layers
    for where in (attributes, inner):
        for spelled in (name, f"_{name}"):
            if spelled in where:
                return where[spelled]
    return None


def _by_class(members: Sequence[Any]) -> dict[str, Any]:
    """Layers by the names that files of Keras 3 give them: their class, counted."""
    found: dict[str, Any] = {}
    used: dict[str, int] = {}
    for one in members:
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", type(one).__name__))
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        used[kind] = used.get(kind, -1) + 1
        found[f"{kind}_{used[kind]}" if used[kind] else kind] = one
    return found
