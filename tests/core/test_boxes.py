"""Boxes of a tensor: all of it, each element once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.boxes import Box, flaw, place_box
from milepost.core.dtypes import dtype

SIZES = st.integers(0, 4)
BOXES = st.builds(Box, st.tuples(SIZES, SIZES), st.tuples(SIZES, SIZES))


@given(st.lists(BOXES, max_size=6), st.tuples(SIZES, SIZES))
def test_boxes_are_all_of_it_if_each_element_is_in_one(boxes: list[Box], whole: tuple[int, int]) -> None:
    counted = np.zeros((8, 8), int)
    for offset, shape in boxes:
        counted[tuple(slice(low, low + size) for low, size in zip(offset, shape, strict=True))] += 1
    inside = all(low + size <= every for box in boxes for low, size, every in zip(*box, whole, strict=True))
    expected = inside and (counted[: whole[0], : whole[1]] == 1).all()
    assert (flaw(boxes, whole) is None) == expected


@pytest.mark.parametrize(
    ("boxes", "whole", "why"),
    [
        ([Box((), ())], (), None),
        ([], (), "a part of it is in no box"),
        ([Box((), ()), Box((), ())], (), "two boxes overlap"),
        ([Box((0,), (1,))], (2, 1), "a box lies outside of it"),
        ([Box((-1,), (1,))], (1,), "a box lies outside of it"),
        ([Box((2**61,), (1,))], (2**62,), "a part of it is in no box"),
        ([Box((at, at), (1, 1)) for at in range(2500)], (2500, 2500), "the boxes are too many to be compared"),
        ([], (0, 3), None),
    ],
)
def test_what_is_wrong(boxes: list[Box], whole: tuple[int, ...], why: str | None) -> None:
    assert flaw(boxes, whole) == why


def test_boxes_are_put_where_they_belong() -> None:
    whole = np.arange(35, dtype=np.int16).reshape(7, 5)
    out = np.zeros(whole.nbytes, np.uint8)
    for rows, columns in itertools.product((slice(0, 3), slice(3, 7)), (slice(0, 4), slice(4, 5))):
        part = np.ascontiguousarray(whole[rows, columns])
        place_box(out, dtype("int16"), (7, 5), (rows.start, columns.start), part.shape, part.tobytes())
    np.testing.assert_array_equal(out.view(np.int16).reshape(7, 5), whole)
