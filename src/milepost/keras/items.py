"""Models, optimizers and metrics of Keras as items: their variables, by path."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from milepost.core import tree
from milepost.errors import Mismatch
from milepost.keras.variables import Array, assign, host, match, named, spec
from milepost.training.items import Item, Loaded, compare
from milepost.training.nested import flatten, nest


def make_item(name: str, value: Any) -> Item | None:
    """The item for a Keras object with variables; None for others."""
    if isinstance(value, keras.Model):
        return VariablesItem(name, value, lambda: value.variables)
    if isinstance(value, (keras.optimizers.Optimizer, keras.metrics.Metric)):
        return VariablesItem(name, value, lambda: value.variables)
    return None


def synced(model: Any) -> Any:
    """`model` with its variables as they are now: during ``fit`` on JAX their values are elsewhere until asked for."""
    sync = getattr(model, "jax_state_sync", None)
    if sync is not None:
        sync()
    return model


class VariablesItem:
    """What an object keeps in variables.

    Args:
        name: of the item.
        owner: the object.
        variables: gives its variables, in an order that the same script gives again.
        ready: called before they are compared with saved ones: makes those that come with the first batch.
        trained: whether floats of variables that are not trainable count as trained (an optimizer's do).
        copied: whether `capture` is to give values that stay as they are whatever becomes of the variables.
    """

    replaced = borrows = False

    def __init__(
        self,
        name: str,
        owner: Any,
        variables: Callable[[], Iterable[Any]],
        *,
        ready: Callable[[], None] | None = None,
        trained: bool | None = None,
        copied: bool = False,
    ) -> None:
        self.name, self.object = name, owner
        self._variables, self._ready, self._copied = variables, ready, copied
        self._all_trained = isinstance(owner, keras.optimizers.Optimizer) if trained is None else trained
        self._trained: set[int] = set()
        self._match: dict[str, str] = {}

    def live(self) -> dict[str, Any]:
        """The variables by name, in the order in which they are stored."""
        return flatten(nest(named(self._variables())))

    def capture(self) -> Any:
        synced(self.object)
        arrays: dict[str, Array] = {}
        self._trained = set()
        for name, variable in named(self._variables()).items():
            arrays[name] = np.array(host(variable)) if self._copied else host(variable)
            if self._all_trained or variable.trainable:
                self._trained.add(id(arrays[name]))
        return nest(arrays)

    def trained(self, tensor: Any) -> bool:
        return id(tensor) in self._trained

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        if self._ready is not None:
            self._ready()
        synced(self.object)
        places: dict[str, str] = flatten(tree.unflatten(saved.structure, lambda path: path, self.name))
        found = {name: saved.tensors[path[len(self.name) + 1 :]] for name, path in places.items()}
        there = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in found.items()}
        here = {name: spec(variable) for name, variable in self.live().items()}
        self._match = match(list(here), list(there)) or {name: name for name in here}
        back = {saved_name: name for name, saved_name in self._match.items()}
        rows = compare({back.get(name, name): what for name, what in there.items()}, here)
        return [Mismatch(f"{self.name}/{row.path}", row.saved, row.here) for row in rows]

    def restore(self, saved: Loaded) -> None:
        values = flatten(saved.value())
        synced(self.object)
        for name, variable in self.live().items():
            assign(variable, values[self._match[name]])
