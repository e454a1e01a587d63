"""Values of JAX as items: pytrees, which are handed over, and objects of Flax NNX, which are changed in place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from milepost.core import dtypes, tree
from milepost.core.adapter import is_tensor
from milepost.errors import Mismatch, ScriptError
from milepost.jax import arrays, pytrees
from milepost.jax.adapter import Saved
from milepost.training.items import Item, Loaded, ValueItem, compare


def make_item(name: str, value: Any) -> Item | None:
    """The item for an object of JAX, Flax or Equinox; None for what is no pytree."""
    if any(base.__module__.startswith("flax.nnx.") for base in type(value).__mro__):
        from milepost.jax import nnx

        special = nnx.make_item(name, value)
        if special is not None:
            return special
    return PytreeItem(name, value) if pytrees.is_array(value) or pytrees.is_node(value) else None


def make_value(name: str, value: Any) -> Item | None:
    """The item for a value of any class in which JAX finds arrays; None for others."""
    try:
        leaves = jax.tree.leaves(value)
    except (ValueError, TypeError, RecursionError, SystemError):  # keys that cannot be sorted, a list within itself
        return None
    plain = type(value) in (dict, list, tuple) and not any(map(pytrees.is_array, leaves))
    of_others = any(is_tensor(leaf) and not pytrees.is_array(leaf) for leaf in leaves)
    return None if plain or of_others else make_item(name, value)


LOOKS = 3
"""How often all of a value is looked at when the next is handed over, to see whether it was donated; after a save, one array is."""


class _Shape(NamedTuple):
    """A pytree of arrays alone, as it was last time."""

    treedef: Any
    structure: Any
    paths: list[str]
    smallest: int
    """Which leaf is."""


class PytreeItem(ValueItem):
    """A pytree that the script hands over again after each step.

    What is restored has the classes, static fields and functions of the value that was given, or of the target that was named for
    one restore, and each array lies where the one there does.
    """

    borrows = True

    def __init__(self, name: str, value: Any) -> None:
        super().__init__(name, value)
        self.donated = False
        """Whether the script was seen to donate this value to its step: then it is copied before the step."""
        self._target: Any = None
        self._shape: _Shape | None = None
        self._looks = LOOKS
        self._witness: list[Any] = []
        """The smallest array of the value that was captured last."""

    @property
    def abstract(self) -> bool:
        """Whether there are descriptions of arrays instead of arrays, so that there is nothing to save yet."""
        return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(self.object))

    def hand_over(self, value: Any) -> None:
        if not self.donated and value is not self.object:
            self.donated = any_deleted(jax.tree.leaves(self.object) if self._looks else self._witness)
            self._looks, self._witness = max(0, self._looks - 1), []
        self.object = value

    def capture(self) -> Any:
        return pytrees.unfold(self.object)

    def flat(self) -> tuple[Any, dict[str, Any]]:
        """What `tree.flatten` gives for `capture`; quick where only arrays are in it and nothing else changed."""
        leaves, treedef = jax.tree.flatten(self.object)
        only_arrays = all(map(is_tensor, {type(leaf): leaf for leaf in leaves}.values()))
        shape = self._shape
        if shape is not None and only_arrays and shape.treedef == treedef:
            self._witness = leaves[shape.smallest : shape.smallest + 1]
            return shape.structure, dict(zip(shape.paths, leaves, strict=True))
        structure, found = tree.flatten(self.capture(), is_tensor, self.name)
        self._shape, self._looks = None, LOOKS
        if only_arrays:
            smallest = min(range(len(leaves)), key=lambda index: math.prod(leaves[index].shape), default=0)
            self._shape = _Shape(treedef, structure, list(found), smallest)
        return structure, found

    def aim(self, target: Any = None, sharding: Any = None) -> None:
        """What the next restore is to give: like `target` (by default what there is), each array where `sharding` says: one
        for all, or a tree of them as far down as they differ."""
        base = self.object if target is None else target
        self._target = base if sharding is None else with_sharding(base, sharding, self.name)

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        live = self.object if self._target is None else self._target
        return mismatches(self.name, pytrees.unfold(live), saved)

    def restore(self, saved: Loaded) -> None:
        live, self._target = self.object if self._target is None else self._target, None
        self.object = pytrees.refill(live, saved.value(), restored)
        self._looks = LOOKS


def any_deleted(leaves: Iterable[Any]) -> bool:
    """Whether one of `leaves` was donated to a jitted function."""
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)


def with_sharding(value: Any, sharding: Any, name: str) -> Any:
    """`value` with the description of an array, and where it is to be, in place of each array."""

    def describe(leaf: Any, where: Sharding) -> Any:
        if not pytrees.is_array(leaf):
            return leaf
        weak = getattr(leaf, "weak_type", False)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where, weak_type=weak)

    def below(where: Any, part: Any) -> Any:
        return jax.tree.map(lambda leaf: describe(leaf, where), part)

    try:
        return jax.tree.map(below, sharding, value, is_leaf=lambda one: isinstance(one, Sharding))
    except (ValueError, TypeError) as error:
        raise ScriptError(
            f"sharding= does not fit {name}",
            expected="a jax.sharding.Sharding, or a tree of them that is the top of the value's",
            found=str(error).partition("\n")[0],
        ) from error


def mismatches(name: str, live: Any, saved: Loaded) -> list[Mismatch]:
    """Compare the arrays of a saved item with those of a live value, as `pytrees.unfold` gives it, path by path."""
    structure, leaves = tree.flatten(live, is_tensor, name)
    here = {path: shown(leaf) for path, leaf in leaves.items()}
    tensors = {f"{name}/{key}" if key else name: tensor for key, tensor in saved.tensors.items()}
    there = {path: f"{tensor.variant or ''} {tensor.dtype} {list(tensor.shape)}" for path, tensor in tensors.items()}
    # A counter may begin as a number of Python and be an array from the first step on.
    plain_here, plain_there = ({node.path for node in tree.walk(one, name)} for one in (structure, saved.structure))
    numbers = {path for path, text in here.items() if path in plain_there - there.keys() and text.endswith(" []")}
    numbers |= {path for path, text in there.items() if path in plain_here - here.keys() and text.endswith(" []")}
    rows = compare(
        {path: text.removeprefix(arrays.WEAK).strip() for path, text in there.items() if path not in numbers},
        {path: text.removeprefix(arrays.WEAK).strip() for path, text in here.items() if path not in numbers},
    )
    return rows + [
        Mismatch(path, there[path].strip(), "only 32 bits: jax_enable_x64 is off")
        for path, tensor in tensors.items()
        if tensor.type == "jax" or isinstance(leaves.get(path), jax.ShapeDtypeStruct)
        if (kind := dtypes.dtype(tensor.dtype).numpy) is not None and arrays.halved(kind)
    ]


def shown(leaf: Any) -> str:
    """An array or its description for people: kind of keys or weak type, dtype, shape."""
    if not isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return f" {leaf.dtype.name} {list(leaf.shape)}"
    raw = arrays.raw_aval(leaf)
    return f"{arrays.variant(leaf) or ''} {np.dtype(raw.dtype).name} {list(raw.shape)}"


def restored(saved: Any, live: Any) -> Any:
    """The leaf that comes back: as it was saved, and where the one that is there lies."""
    if isinstance(saved, Saved):
        return arrays.make(saved.data, saved.variant, arrays.sharding_of(live))
    if isinstance(live, jax.ShapeDtypeStruct) and isinstance(saved, np.ndarray):
        return arrays.make(saved, None, live.sharding)
    return saved
