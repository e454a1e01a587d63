"""Objects of Flax NNX (modules, optimizers, metrics, `Rngs`) as items: their variables, by the attributes that lead there."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from flax import nnx

from milepost.core import tree
from milepost.core.adapter import is_tensor
from milepost.errors import Mismatch, ScriptError
from milepost.jax import pytrees
from milepost.jax.items import any_deleted, mismatches, restored, with_sharding
from milepost.training.items import Item, Loaded

_BUFFERS = (nnx.BatchStat, nnx.RngState, nnx.Intermediate)
"""Kinds of variables that nobody trains."""


def make_item(name: str, value: Any) -> Item | None:
    """The item for an object with variables; None for others, a state of variables among them, which is a mere pytree."""
    return ObjectItem(name, value) if isinstance(value, nnx.Pytree) else None


class _Shape(NamedTuple):
    """An object as it was last time: where its leaves, in JAX's order, are stored, each once, and which are trained."""

    treedef: Any
    structure: Any
    paths: dict[str, int]
    trained: list[int]


class ObjectItem:
    """An object whose variables are changed in place. A variable that is at two places is saved once; what is no variable or array
    (a number of layers, a name) is the script's."""

    replaced, borrows = False, True

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.object = name, value
        self.donated = False
        """Whether the script was seen to donate the variables to its step: then they are copied before the step."""
        self._target: Any = None
        self._shape: _Shape | None = None
        self._trained: set[int] = set()
        self._witness: list[jax.Array] = []
        """The smallest array as it was: JAX deletes it when it is donated."""

    @property
    def abstract(self) -> bool:
        """As for `milepost.jax.items.PytreeItem`."""
        return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(self.object)))

    def capture(self) -> Any:
        return pytrees.unfold(nnx.state(self.object))

    def flat(self) -> tuple[Any, dict[str, Any]]:
        """What `tree.flatten` gives for `capture`; quick where nothing but arrays changed."""
        self.donated = self.donated or any_deleted(self._witness)
        leaves, treedef = jax.tree.flatten(self.object)
        shape = self._shape
        if shape is None or shape.treedef != treedef:
            structure, found, trained = self._slow()
            shape = self._shape = self._learn(leaves, treedef, structure, found, trained)
            self._trained = trained
        else:
            structure, found = shape.structure, {path: leaves[index] for path, index in shape.paths.items()}
            self._trained = {id(leaves[index]) for index in shape.trained}
        arrays = [leaf for leaf in found.values() if isinstance(leaf, jax.Array)]
        self._witness = sorted(arrays, key=lambda leaf: leaf.size)[:1]
        return structure, found

    def _slow(self) -> tuple[Any, dict[str, Any], set[int]]:
        state = nnx.state(self.object)
        structure, found = tree.flatten(pytrees.unfold(state), is_tensor, self.name)
        variables = jax.tree.leaves(state, is_leaf=lambda one: isinstance(one, nnx.Variable))
        trained = [one for one in variables if not isinstance(one, _BUFFERS)]
        return structure, found, {id(leaf) for leaf in jax.tree.leaves(trained)}

    def _learn(
        self, leaves: list[Any], treedef: Any, structure: Any, found: dict[str, Any], trained: set[int]
    ) -> _Shape | None:
        """Which leaf of the object is which; None where that is not to be told, or where not all of them are arrays."""
        where = {id(leaf): index for index, leaf in enumerate(leaves)}
        places = [where.get(id(leaf)) for leaf in found.values()]
        if None in places or len(set(places)) != len(places) or not all(map(is_tensor, leaves)):
            return None
        paths = {path: where[id(leaf)] for path, leaf in found.items()}
        return _Shape(treedef, structure, paths, [index for index in paths.values() if id(leaves[index]) in trained])

    def trained(self, tensor: Any) -> bool:
        return id(tensor) in self._trained

    def aim(self, target: Any = None, sharding: Any = None) -> None:
        """Where the next restore is to put the arrays: see `milepost.jax.items.PytreeItem.aim`."""
        if target is not None:
            raise ScriptError(
                f"{type(self.object).__name__} is changed in place, so there is no other target", where=self.name
            )
        self._target = with_sharding(nnx.state(self.object), sharding, self.name) if sharding is not None else None

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        live = nnx.state(self.object) if self._target is None else self._target
        return mismatches(self.name, pytrees.unfold(live), saved)

    def restore(self, saved: Loaded) -> None:
        live, self._target = nnx.state(self.object) if self._target is None else self._target, None
        nnx.update(self.object, pytrees.refill(live, saved.value(), restored))
