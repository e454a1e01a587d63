"""Where an iterator of `tf.data` is, as bytes.

A dataset that shuffles gives each iterator another order, by a count of those made of it. TensorFlow saves that count with an
iterator only until all data was read into the shuffle buffer. So the state at the beginning of a pass is kept too: putting
that back into any iterator puts the count back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

State = dict[str, npt.NDArray[np.uint8]]
_STEM = "position"


def is_iterator(value: Any) -> bool:
    """Whether `value` is an iterator over a dataset; of tensors, or of NumPy arrays."""
    return isinstance(value, (tf.data.Iterator, tf.data.NumpyIterator))


def is_unseeded(dataset: Any) -> bool:
    """Whether a `tf.data.Dataset` shuffles, or draws, without a seed: its passes are others in each process."""
    waiting = [dataset]
    while waiting:
        one = waiting.pop()
        seeds = [getattr(one, name, None) for name in ("_seed", "_seed2")]
        if all(seed is not None and int(seed) == 0 for seed in seeds):  # by which TensorFlow says that it has none
            return True
        waiting += getattr(one, "_inputs", list)()  # a distributed one has none
    return False


def capture(iterator: Any) -> State | None:
    """The position of `iterator`, its shuffle buffers with it; None where TensorFlow cannot tell it (Python code in the pipeline, a
    lookup table, several workers)."""
    with tempfile.TemporaryDirectory(prefix="milepost-") as folder:
        try:
            tf.train.Checkpoint(iterator=iterator).write(f"{folder}/{_STEM}")
        except (tf.errors.OpError, ValueError, TypeError):
            return None
        files = sorted(Path(folder).glob(f"{_STEM}.*"))
        return {file.name.removeprefix(f"{_STEM}."): np.fromfile(file, np.uint8) for file in files}


class Pass:
    """One pass over a dataset: its iterator, and what a checkpoint keeps of it.

    Args:
        dataset: a `tf.data.Dataset`.
        iterator: one that was just made of it.
        saved: what `capture` gave in an earlier process, to go on there; None for a pass that begins.
    """

    def __init__(self, dataset: Any, iterator: Any, saved: Mapping[str, Any] | None = None) -> None:
        self.iterator = iterator
        if saved is None:
            self._start = capture(iterator)
            return
        self._start = saved["start"]
        restore(iterator, saved["now"])
        restore(iter(dataset), self._start)

    def capture(self) -> dict[str, State] | None:
        """Where it is; None where TensorFlow cannot tell."""
        now = capture(self.iterator) if self._start is not None else None
        return None if now is None or self._start is None else {"now": now, "start": self._start}


def pass_over(dataset: Any, saved: Mapping[str, Any]) -> None:
    """The next iterator made of `dataset` is to be the one after the pass that `saved` was captured in."""
    restore(iter(dataset), saved["start"])


def restore(iterator: Any, state: Mapping[str, Any]) -> None:
    """Take a fresh iterator of the same pipeline to where another was."""
    with tempfile.TemporaryDirectory(prefix="milepost-") as folder:
        for name, content in state.items():
            np.asarray(content, np.uint8).tofile(f"{folder}/{_STEM}.{name}")
        tf.train.Checkpoint(iterator=iterator).read(f"{folder}/{_STEM}").assert_consumed()
