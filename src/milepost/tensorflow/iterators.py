"""Where an iterator of `tf.data` is, as bytes."""

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


def restore(iterator: Any, state: Mapping[str, Any]) -> None:
    """Take a fresh iterator of the same pipeline to where another was."""
    with tempfile.TemporaryDirectory(prefix="milepost-") as folder:
        for name, content in state.items():
            np.asarray(content, np.uint8).tofile(f"{folder}/{_STEM}.{name}")
        tf.train.Checkpoint(iterator=iterator).read(f"{folder}/{_STEM}").assert_consumed()
