"""What TensorFlow tracks as targets of `milepost.transfer`: modules, checkpoints, models of tf.keras."""

from __future__ import annotations

from collections import Counter
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


def make_target(value: Any, *, everything: bool = False) -> TrackedTarget | None:
    """Anything that is tracked and has variables; None for others."""
    return TrackedTarget(value, everything=everything) if isinstance(value, Trackable) else None


class TrackedTarget:
    """The variables that are tracked below an object; of a model of tf.keras the weights, unless it is `everything`."""

    numbered: tuple[Mapping[str, str], ...] = ()

    def __init__(self, root: Any, *, everything: bool) -> None:
        self.where = f"the {type(root).__name__}"
        self.weights = not (everything or isinstance(root, tf.train.Checkpoint) or hasattr(root, "apply_gradients"))
        self._root = root
        self._variables = variables_below(root)
        if self.weights and isinstance(getattr(root, "weights", None), list):
            wanted = {id(one) for one in root.weights}
            self._variables = {name: one for name, one in self._variables.items() if id(one) in wanted}
        if not self._variables:
            raise ScriptError(f"{self.where} has no variables yet", hint="call it on a batch first")
        self.slots = {name: Slot(name, spec_of(one)) for name, one in self._variables.items()}
        self._names = {id(one): name for name, one in self._variables.items()}
        own = [one.name.removesuffix(":0") for one in self._variables.values()]
        times = Counter(own)
        self._own = {name: slot for name, slot in zip(own, self.slots, strict=True) if times[name] == 1}

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
                break
        return self._names.get(id(node)) or self._own.get(path)

    def live(self, name: str) -> Any:
        return self._variables[name]

    def load(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        before = {}
        try:
            for name, value in values.items():
                before[name] = self._variables[name].numpy()
                self._variables[name].assign(value)
        except Exception as error:
            for name, value in before.items():
                self._variables[name].assign(value)
            raise MismatchError(f"{self.where} refused a value: {error}", where=name) from error


def spec_of(variable: Any) -> TensorSpec:
    """What a variable is."""
    kind, shape = dtypes.dtype(variable.dtype.name), tuple(variable.shape.as_list())
    return TensorSpec(kind, shape, nbytes(kind, shape))
