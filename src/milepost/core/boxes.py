"""Boxes: the parts (offset, shape) of a tensor that are stored one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from milepost.core.dtypes import DType

MOST_CELLS = 4_000_000
"""Of the grid on which all faces of the boxes lie."""


class Box(NamedTuple):
    """The elements from `offset` on, `shape` of them along each dimension."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]


def flaw(boxes: Sequence[Box], whole: tuple[int, ...]) -> str | None:
    """Why `boxes` are not all of a tensor of shape `whole`, each element once; None if they are.

    Example:
        >>> flaw([Box((0,), (3,)), Box((3,), (1,))], (4,))
        >>> flaw([Box((0,), (3,)), Box((2,), (2,))], (4,))
        'two boxes overlap'
    """
    for offset, shape in boxes:
        if not len(offset) == len(shape) == len(whole) or not all(
            0 <= low <= low + size <= every for low, size, every in zip(offset, shape, whole, strict=True)
        ):
            return "a box lies outside of it"
    boxes = [box for box in boxes if 0 not in box.shape]
    # The faces of all boxes divide the tensor into cells, each of which has to be in exactly one box.
    faces = [
        sorted({0, every} | {at for box in boxes for at in (box.offset[axis], box.offset[axis] + box.shape[axis])})
        for axis, every in enumerate(whole)
    ]
    if 0 in whole:
        return None
    if math.prod(len(along) - 1 for along in faces) > MOST_CELLS:
        return "the boxes are too many to be compared"
    places = [{at: place for place, at in enumerate(along)} for along in faces]
    taken = np.zeros([len(along) - 1 for along in faces], bool)
    for offset, shape in boxes:
        cells = tuple(
            slice(place[low], place[low + size]) for place, low, size in zip(places, offset, shape, strict=True)
        )
        if taken[cells].any():
            return "two boxes overlap"
        taken[cells] = True
    return None if taken.all() else "a part of it is in no box"


def place_box(
    out: npt.NDArray[Any],
    kind: DType,
    shape: tuple[int, ...],
    offset: tuple[int, ...],
    box: tuple[int, ...],
    data: bytes | npt.NDArray[np.uint8],
) -> None:
    """Copy a box of `box` elements at `offset` into the bytes `out` of a tensor of `shape`."""
    width = kind.bits // 8
    whole = out.reshape(*shape, width)
    whole[tuple(slice(first, first + size) for first, size in zip(offset, box, strict=True))] = np.frombuffer(
        data, np.uint8
    ).reshape(*box, width)
