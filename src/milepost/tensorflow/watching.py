"""What `milepost audit` has to know about TensorFlow: which objects carry state, and batches that are read past ``run.batches``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from milepost.core.leaves import PLAIN
from milepost.tensorflow import iterators

_LIBRARIES = ("milepost.", "tensorflow.", "keras.")
OBJECT = "object"
"""As in `milepost.auditing.evidence`."""


def look_into(value: Any, *, is_item: bool) -> tuple[str, Mapping[str, Any]] | None:
    """See `milepost.auditing.evidence.Framework`."""
    if isinstance(value, tf.data.Dataset):
        return OBJECT, {}
    if isinstance(value, tf.data.Iterator):
        return "iterator", {} if is_item else (iterators.capture(value) or {})
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        return OBJECT, {"values": tf.nest.flatten(value, expand_composites=True)}
    if isinstance(value, tf.Module):
        beside = {name: one for name, one in vars(value).items() if isinstance(one, (*PLAIN, list, dict))}
        held = {f"{number} {one.name}": one for number, one in enumerate(value.variables)}
        return ("layer", beside) if is_item else ("module", {**held, **beside})
    python = getattr(value, "python_function", None)
    if callable(python) and hasattr(value, "get_concrete_function"):
        return OBJECT, {"function": python}
    return None


def watch_iterators(tell: Callable[[str, Any], None]) -> None:
    """From now on `tell` where (``train.py:31``) a script reads an iterator of `tf.data`, and each of its batches."""
    from tensorflow.python.data.ops.iterator_ops import OwnedIterator

    read = OwnedIterator.__next__

    def __next__(self: Any) -> Any:  # noqa: N807
        batch = read(self)
        caller = sys._getframe(1)
        if not str(caller.f_globals.get("__name__")).startswith(_LIBRARIES):
            tell(f"tf.data read at {Path(caller.f_code.co_filename).name}:{caller.f_lineno}", batch)
        return batch

    OwnedIterator.__next__ = __next__


def parts(item: Any) -> Iterator[Any]:
    """What is in the state since `item` is."""
    if isinstance(item, tf.Module):
        yield from item.submodules


def roots(items: Iterable[Any]) -> Iterator[tuple[str, str, Any]]:
    """Nothing: scripts have variables for what they use."""
    return iter(())
