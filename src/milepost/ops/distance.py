"""How far two tensors of one shape are apart, read side by side in blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from milepost.ops.numbers import as_floats

PIECE = 1 << 17
"""Elements looked at at a time: as float64 they fit into a core's cache."""
TINY = 1e-290
"""A sum of squares below this may have lost what is in it."""

Array = npt.NDArray[Any]


class Distance(NamedTuple):
    """Two tensors a and b of one shape.

    `unequal` counts the elements that differ, `beyond` those that differ by more than the tolerance. `relative_l2` is
    ‖b - a‖ / ‖a‖, `max_abs` the largest abs(b - a), `cosine` that of the angle between them (None if one is zero); all over the
    places where both are finite. `nans` counts the places where both are NaN, which is equal; `lone` those where one is NaN or
    infinite, and the other something else. Of complex numbers, real and imaginary parts count each.
    """

    unequal: int = 0
    beyond: int = 0
    relative_l2: float = 0.0
    max_abs: float = 0.0
    cosine: float | None = None
    nans: int = 0
    lone: int = 0


def distance(a: Iterable[Array], b: Iterable[Array], atol: float = 0.0, rtol: float = 0.0) -> Distance:
    """The distance of two tensors given as flat blocks, however divided; abs(b - a) <= atol + rtol * abs(a) is tolerated."""
    found = _Comparison(atol, rtol)
    for one, other in _together(a, b):
        found.add(one, other)
    return found.distance()


def _together(a: Iterable[Array], b: Iterable[Array]) -> Iterator[tuple[Array, Array]]:
    """Equal lengths of both, `PIECE` at most."""
    left, right = iter(a), iter(b)
    one: Array | None = next(left, None)
    other: Array | None = next(right, None)
    while one is not None and other is not None:
        size = min(one.size, other.size, PIECE)
        if size:
            yield one[:size], other[:size]
        one = one[size:] if one.size > size else next(left, None)
        other = other[size:] if other.size > size else next(right, None)


class _Comparison:
    """A distance in the making. Sums turn into numpy's long double where squares leave float64."""

    def __init__(self, atol: float, rtol: float) -> None:
        self._atol, self._rtol = atol, rtol
        self._unequal = self._beyond = self._nans = self._lone = 0
        self._max = 0.0
        self._sums = np.zeros(4, np.longdouble)
        """Of (b - a)², a², b², ab."""
        self._room = np.empty((3, PIECE))
        """Used over and over: the kernel takes longer to clear new memory than all of this takes."""

    def add(self, a: Array, b: Array) -> None:
        """Take in the next elements of both, as many of each."""
        ours = _wide(a, self._room[0])
        with np.errstate(invalid="ignore", over="ignore"):
            if a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8)):
                theirs, square = ours, np.dot(ours, ours)
                if TINY < square < math.inf:
                    self._sums += (0, square, square, square)
                    return
            else:
                theirs = _wide(b, self._room[1])
            kept = ours.dtype == theirs.dtype == np.float64 and ours.size <= PIECE
            apart = np.subtract(theirs, ours, out=self._room[2][: ours.size] if kept else None)
            sums = _products(apart, ours, theirs)
        if not all(map(_kept, sums[:3], (apart, ours, theirs))):
            ours, theirs = self._only_finite(ours, theirs)
            apart = theirs - ours
            sums = _products(apart, ours, theirs)
        if not apart.size:
            return
        self._sums += sums
        unequal = int(np.count_nonzero(apart != 0))
        if not unequal:
            return
        self._unequal += unequal
        self._max = max(self._max, float(apart.max()), -float(apart.min()))
        if self._atol or self._rtol:
            unequal = int(np.count_nonzero(np.abs(apart) > self._atol + self._rtol * np.abs(ours)))
        self._beyond += unequal

    def _only_finite(self, ours: Array, theirs: Array) -> tuple[Array, Array]:
        """Both where both are finite, in numbers that can be squared; the rest is counted."""
        finite = np.isfinite(ours) & np.isfinite(theirs)
        nans = int(np.count_nonzero(np.isnan(ours) & np.isnan(theirs)))
        lone = int(np.count_nonzero(~finite & (ours != theirs))) - nans  # NaN is equal to nothing
        self._nans, self._lone = self._nans + nans, self._lone + lone
        self._unequal, self._beyond = self._unequal + lone, self._beyond + lone
        return ours[finite].astype(np.longdouble), theirs[finite].astype(np.longdouble)

    def distance(self) -> Distance:
        """What was found."""
        apart, a, b, both = self._sums
        relative = float(np.sqrt(apart / a)) if a else math.inf if apart else 0.0
        cosine = max(-1.0, min(1.0, float(both / np.sqrt(a) / np.sqrt(b)))) if a and b else None
        return Distance(self._unequal, self._beyond, relative, self._max, cosine, self._nans, self._lone)


def _products(apart: Array, ours: Array, theirs: Array) -> list[Any]:
    return [np.dot(apart, apart), np.dot(ours, ours), np.dot(theirs, theirs), np.dot(ours, theirs)]


def _kept(square: Any, of: Array) -> bool:
    """Whether the sum of the squares of `of` is one, neither NaN nor beyond what floats can hold at either end."""
    return bool(TINY < square < math.inf or (square == 0 and not of.any()))


def _wide(block: Array, room: Array) -> Array:
    """The elements in float64, in `room` if they fit; or in long double where that is too short for whole numbers of 64 bits."""
    if block.dtype.kind == "c":
        return block.astype(np.complex128).view(np.float64)
    if block.dtype.kind in "iu" and block.dtype.itemsize == 8:
        return block.astype(np.longdouble)
    wide = room[: block.size]
    np.copyto(wide, as_floats(block))
    return wide
