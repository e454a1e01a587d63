"""What TensorFlow tracks as targets of `milepost.transfer`: modules, checkpoints, models of tf.keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from milepost.core import dtypes
from milepost.core.layout import nbytes
from milepost.core.paths import Marked, split
from milepost.core.source import TensorSpec
from milepost.errors import FormatError, MismatchError, ScriptError
from milepost.ops.counterparts import Slot
from milepost.tensorflow.items import Trackable, held, variables_below


def make_target(value: Any) -> TrackedTarget | None:
    """Anything that is tracked and has variables; None for others."""
    return TrackedTarget(value) if isinstance(value, Trackable) else None


class TrackedTarget:
    """The variables that are tracked below an object."""

    numbered: tuple[Mapping[str, str], ...] = ()

    def __init__(self, root: Any) -> None:
        self.where = f"the {type(root).__name__}"
        self.weights = not isinstance(root, tf.train.Checkpoint)
        self._root = root
        self.variables = variables_below(root)
        """By the name of the slot."""
        if not self.variables:
            raise ScriptError(f"{self.where} has no variables yet", hint="call it on a batch first")
        self.slots = {name: Slot(name, _spec(one)) for name, one in self.variables.items()}
        self._names = {id(one): name for name, one in self.variables.items()}
        own = [one.name.removesuffix(":0") for one in self.variables.values()]
        self._own = {name: slot for name, slot in zip(own, self.slots, strict=True) if own.count(name) == 1}

    def find(self, path: str) -> str | None:
        if path in self.slots:
            return path
        try:
            parts = split(path)
        except FormatError:
            return None
        view, node = tf.train.TrackableView(self._root), self._root
        for part in parts:
            node = held(view.children(node).get(part.text if isinstance(part, Marked) else part))
            if node is None:
                return self._own.get(path)
        return self._names.get(id(node))

    def load(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        before = {}
        try:
            for name, value in values.items():
                before[name] = self.variables[name].numpy()
                self.variables[name].assign(value)
        except Exception as error:
            for name, value in before.items():
                self.variables[name].assign(value)
            raise MismatchError(f"{self.where} refused a value: {error}", where=name) from error


def _spec(variable: Any) -> TensorSpec:
    kind, shape = dtypes.dtype(variable.dtype.name), tuple(variable.shape.as_list())
    return TensorSpec(kind, shape, nbytes(kind, shape))
