"""The other private hook: into the train function, where it reads its batches. `milepost audit` looks at them; training does not.

On JAX and PyTorch the function is handed an iterator of Python's or a list. On TensorFlow it reads an iterator of `tf.data` inside
a graph: there the graph tells what it read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from milepost.core.leaves import digest

Tell = Callable[[Any], None]


class UnseenBatch:
    """Stands for a batch that was read where nobody could look: on several devices, or by a train function of the script's own."""

    __slots__ = ()


def tell_batches(model: Any, tell: Tell) -> Callable[[], None]:
    """From now on the train function of `model` tells every batch that it reads, before it returns. Returns what ends that.

    Args:
        model: is in ``fit``, before the first step.
        tell: is given x, or (x, y), or (x, y, sample_weight); on TensorFlow the list of tensors therein.
    """
    before = model.train_function
    if keras.backend.backend() == "tensorflow":
        model.make_train_function(force=True)  # one of an earlier fit has its graph already
    model.train_function = _telling(model.train_function, tell)

    def end() -> None:
        model.train_function = before

    return end


def _telling(train_function: Callable[..., Any], tell: Tell) -> Callable[..., Any]:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _inside_graphs(train_function, tell)
    if backend == "jax":
        return lambda state, iterator: train_function(state, _Told(iterator, tell))

    def torch_function(data: Any) -> Any:
        for batch in data:
            tell(batch)
        return train_function(data)

    return torch_function


class _Told:
    """An iterator that tells what it hands out."""

    def __init__(self, inner: Iterator[Any], tell: Tell) -> None:
        self._inner, self._tell = inner, tell

    def __iter__(self) -> _Told:
        return self

    def __next__(self) -> Any:
        batch = next(self._inner)
        self._tell(batch)
        return batch


_READ: list[list[Any]] = []
"""What the graphs of the train function that is under way have read; empty in validation."""


def _inside_graphs(train_function: Callable[..., Any], tell: Tell) -> Callable[..., Any]:
    _watch_iterators()

    def function(iterator: Any) -> Any:
        _READ.append([])
        try:
            return train_function(iterator)
        finally:
            # Of several in one execution, which node of the graph told first is chance: they are told by their content.
            for batch in sorted(_READ.pop(), key=digest):
                tell(batch)

    return function


def _watch_iterators() -> None:
    """From now on, graphs that read an iterator of `tf.data` tell what they read."""
    from tensorflow.python.data.ops.iterator_ops import OwnedIterator

    if hasattr(OwnedIterator.get_next, "_milepost"):
        return
    get_next, get_optional = OwnedIterator.get_next, OwnedIterator.get_next_as_optional

    def told(self: Any) -> Any:
        batch = get_next(self)
        _tell_in_graph(batch)
        return batch

    def told_optional(self: Any) -> Any:
        import tensorflow as tf

        found = get_optional(self)
        tf.cond(found.has_value(), lambda: _tell_in_graph(found.get_value()), lambda: None)
        return found

    told._milepost = True  # type: ignore[attr-defined]
    OwnedIterator.get_next, OwnedIterator.get_next_as_optional = told, told_optional


def _tell_in_graph(batch: Any) -> None:
    import tensorflow as tf

    if not _READ:  # of validation, or of a script's own
        return
    parts = [one for one in tf.nest.flatten(batch, expand_composites=True) if one.dtype != tf.variant]

    def run(*arrays: Any) -> None:
        if _READ:
            _READ[-1].append([np.array(one) for one in arrays])

    tf.numpy_function(run, parts, [], stateful=True)
