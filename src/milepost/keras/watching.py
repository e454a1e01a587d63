"""What `milepost audit` has to know about Keras: which objects carry state, and which of them ``fit`` holds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any, Protocol, runtime_checkable

import keras

from milepost.core.leaves import PLAIN
from milepost.keras.source import storable
from milepost.keras.variables import host, named
from milepost.training.rng import is_generator

OBJECT = "object"
"""As in `milepost.auditing.evidence`."""
_NOT_STATE = ("model", "_model", "params")


def look_into(value: Any, *, is_item: bool) -> tuple[str, Mapping[str, Any]] | None:
    """See `milepost.auditing.evidence.Framework`."""
    if isinstance(value, keras.layers.Layer):
        if is_item and not isinstance(value, keras.Model):
            return "layer", {}  # it is looked into with its model
        beside = _beside_variables(value)
        return ("layer", beside) if is_item else ("module", {**_values(value.variables), **beside})
    if isinstance(value, keras.callbacks.Callback):
        held = {name: one for name, one in vars(value).items() if name not in _NOT_STATE}
        return OBJECT, _of_builtin(value, held) if _of_keras(value) else held
    if isinstance(value, keras.utils.PyDataset):
        return "dataset", _beside_saved(value)
    if type(value).__name__ == "PRNGKeyArray":  # of JAX
        return "generator", {"state": sys.modules["jax"].random.key_data(value)}
    for cls, kind in ((keras.optimizers.Optimizer, "optimizer"), (keras.metrics.Metric, "metric")):
        if isinstance(value, cls):
            return kind, {} if is_item else _values(value.variables)
    return None


def parts(item: Any) -> Iterator[Any]:
    """What is in the state since `item` is: the layers of a model; in ``fit`` its optimizer and metrics too."""
    if isinstance(item, keras.Model):
        yield from item._flatten_layers(include_self=False, recursive=True)
    elif isinstance(item, Holder):
        yield getattr(item.model, "optimizer", None)
        yield from item.model.metrics


@runtime_checkable
class Holder(Protocol):
    """A ``fit`` under way."""

    model: Any

    def held(self) -> Mapping[str, Any]:
        """The objects with code of a script's own that it works with: callbacks, and what data is read from."""


def roots(items: Iterable[Any]) -> Iterator[tuple[str, str, Any]]:
    """What a script may have no variable for: the callbacks of a ``fit`` under way, and what it reads data from."""
    for one in items:
        if isinstance(one, Holder):
            yield "fit()", "model", one.model
            for name, held in one.held().items():
                yield "fit()", name, held


def _values(variables: Iterable[Any]) -> dict[str, Any]:
    return {name: host(one) for name, one in named(variables).items()}


def _of_builtin(callback: Any, held: Mapping[str, Any]) -> dict[str, Any]:
    """Of a callback of Keras: what it counts, and the functions that a script gave it (LambdaCallback). Those that write down what
    was, or only write, depend on nothing."""
    if isinstance(callback, _WRITERS) or type(callback).__module__.startswith("milepost."):
        return {}
    kinds = (*PLAIN, list, dict)
    return {
        name: one
        for name, one in held.items()
        if isinstance(one, kinds) or (isinstance(one, FunctionType) and not _of_keras(one))
    }


_WRITERS = (
    keras.callbacks.History, keras.callbacks.ProgbarLogger, keras.callbacks.CSVLogger, keras.callbacks.ModelCheckpoint,
    keras.callbacks.BackupAndRestore, keras.callbacks.TensorBoard, keras.callbacks.RemoteMonitor,
)  # fmt: skip


def _beside_saved(dataset: Any) -> dict[str, Any]:
    """The attributes of a `keras.utils.PyDataset` that are not saved. Where threads read ahead, how far they got is chance."""
    if keras.backend.backend() == "tensorflow" or dataset.workers > 1:
        return {}
    return {
        name: one
        for name, one in vars(dataset).items()
        if not (name.startswith("_") or storable(one) or is_generator(one))
    }


def _of_keras(value: Any) -> bool:
    """Whether an object, or a function, is none of a script's own."""
    module = value.__module__ if isinstance(value, FunctionType) else type(value).__module__
    return module.partition(".")[0] in ("keras", "milepost")


_OF_LAYERS = {
    "activity_regularizer", "autocast", "build", "built", "call_signature_parameters", "compiled", "history", "jit_compile",
    "loss", "loss_weights", "name", "optimizer", "predict_function", "quantize", "run_eagerly", "steps_per_execution",
    "stop_evaluating", "stop_predicting", "stop_training", "supports_jit", "supports_masking", "test_function",
    "train_function", "training", "unrolled_steps_per_execution",
}  # fmt: skip
"""Attributes that Keras gives layers and models, beside those that begin with an underscore."""


def _beside_variables(layer: Any) -> dict[str, Any]:
    """The attributes that layers have beside variables and other layers; of Keras' own the numbers (a rate of dropout)."""
    found: dict[str, Any] = {}
    for part in (layer, *layer._flatten_layers(include_self=False, recursive=True)):
        under = "" if part is layer else f"{part.name}."
        found |= {under + name: one for name, one in vars(part).items() if _is_own(name, one, own=not _of_keras(part))}
    return found


def _is_own(name: str, value: Any, *, own: bool) -> bool:
    if name in _OF_LAYERS or name.startswith("_"):
        return False
    return isinstance(value, PLAIN) or (own and not isinstance(value, (keras.layers.Layer, keras.Variable)))
