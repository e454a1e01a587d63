"""Elements of any type as floats that numpy computes with, without loss where there is such a float."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core.dtypes import DType

Floats = npt.NDArray[Any]
"""float32 or float64."""


def has_numbers(kind: DType) -> bool:
    """Whether elements of `kind` are single numbers: not of those that are read as bytes."""
    return kind.numpy is not None


def as_floats(block: npt.NDArray[Any]) -> Floats:
    """The elements of a flat `block` as float32 where that is exact, else as float64; of complex numbers the magnitudes.

    Whole numbers beyond ±2**53 are rounded.
    """
    kind = block.dtype
    if kind in (np.float32, np.float64):
        return block
    if kind.kind == "c":
        sizes: Floats = np.abs(block)
        return sizes
    if kind.name == "bfloat16":  # the upper half of a float32
        return (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind.isbuiltin != 1 and kind.itemsize == 1:
        return _table(kind)[block.view(np.uint8)]
    return block.astype(np.float64 if kind.kind in "iu" and kind.itemsize > 2 else np.float32)


@cache
def _table(kind: np.dtype[Any]) -> npt.NDArray[np.float32]:
    """What each byte means as an element of `kind`, a type of ml_dtypes."""
    return np.arange(256, dtype=np.uint8).view(kind).astype(np.float32)
