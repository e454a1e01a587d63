"""`milepost.stats`: where the numbers of a checkpoint lie, tensor by tensor and layer by layer.

Tensors are read in blocks that stay in a core's cache while they are looked at, so that memory does not grow with the checkpoint.
Sums are kept in float64: mean and sum of squared deviations per block, merged as in Chan, Golub and LeVeque, "Updating formulae
and a pairwise algorithm for computing sample variances" (1979).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core import words
from milepost.core.source import TensorSource, TensorSpec
from milepost.core.table import Column, table
from milepost.core.text import safe
from milepost.errors import ScriptError
from milepost.ops.holding import part_of
from milepost.ops.matching import select
from milepost.ops.numbers import Floats, as_floats, has_numbers
from milepost.ops.refs import open as open_source

PIECE = 1 << 18
"""Elements looked at at a time: a block of float32 as it was read. Counting exponents in pairs takes a table, which many share."""
MOST_BINS = 10_000
_PAIRED = 1 << 17
"""Elements from which on exponents are counted in pairs: a larger table, and half the steps."""


@dataclass(frozen=True)
class Numbers:
    """What is known of the elements of a tensor, or of a layer.

    `least`, `greatest`, `mean`, `std` (of the population) and `norm` (Euclidean) are of the finite elements, of complex numbers of
    their magnitudes; None where there is none. `log2` counts finite elements other than zero by exponent: key e, how many x have
    2**e <= abs(x) < 2**(e+1). `bins`, if asked for, are counts in so many equal parts of [`least`, `greatest`].
    """

    path: str
    count: int
    zeros: int
    nans: int
    infs: int
    least: float | int | None
    greatest: float | int | None
    mean: float | None
    std: float | None
    norm: float | None
    log2: dict[int, int] = field(repr=False)
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    bins: tuple[int, ...] | None = field(default=None, repr=False)

    @property
    def finite(self) -> bool:
        """Whether all elements are."""
        return not (self.nans or self.infs)


@dataclass(frozen=True)
class Stats:
    """What `stats` found in `where`. `skipped` are the tensors that were not looked at, and why."""

    where: str
    tensors: tuple[Numbers, ...] = field(repr=False)
    layers: tuple[Numbers, ...] = field(repr=False)
    skipped: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __getitem__(self, path: str) -> Numbers:
        """Of the tensor or layer at `path`; `KeyError` if it was not looked at."""
        for one in (*self.tensors, *self.layers):
            if one.path == path:
                return one
        raise KeyError(path)

    def __str__(self) -> str:
        lines, _ = table(COLUMNS, [cells_of(one) for one in self.tensors])
        return "\n".join([safe(self.where), *lines, *(f"{safe(path)}: {safe(why)}" for path, why in self.skipped)])


COLUMNS = [
    Column("PATH", least=16, end=True), Column("TYPE", optional=6), Column("SHAPE", optional=5),
    Column("MIN", right=True), Column("MAX", right=True), Column("MEAN", right=True, optional=3), Column("STD", right=True),
    Column("NORM", right=True, optional=1), Column("ZEROS", right=True, optional=4),
    Column("NAN", right=True), Column("INF", right=True),
]  # fmt: skip
"""Of a table of `Numbers`."""


def cells_of(one: Numbers) -> list[str]:
    """A row for `COLUMNS`, safe to show."""
    numbers = (
        "" if value is None else words.number(value) for value in (one.least, one.greatest, one.mean, one.std, one.norm)
    )
    few = one.zeros < one.count / 1000
    zeros = (f"{one.zeros:,}" if few else f"{100 * one.zeros / one.count:.3g} %") if one.zeros else ""
    return [
        safe(one.path), one.dtype or "", words.count(one.count, "element") if one.shape is None else words.shape(one.shape),
        *numbers, zeros, f"{one.nans:,}" if one.nans else "", f"{one.infs:,}" if one.infs else "",
    ]  # fmt: skip


def stats(
    source: TensorSource | str | os.PathLike[str],
    paths: Sequence[str] | None = None,
    *,
    bins: int | None = None,
    on_block: Callable[[str, int], None] | None = None,
) -> Stats:
    """Statistics of the tensors of `source`, and of its layers (the tensors that differ in the last part of their name).

    Args:
        source: as `milepost.open` returns it, or the REF to open.
        paths: only these tensors, or what is below these paths; ``*`` and ``?`` stand for any characters. If None, all but
            random state and the place in the data.
        bins: count the elements of each tensor in so many equal bins from its least to its greatest; takes a second reading.
        on_block: told the path and the number of bytes after each block.

    Raises:
        NotFoundError: there is no tensor for one of `paths`.
        ScriptError: no bins, or far too many.
        DamagedError: bytes differ from their digest.
        others as `milepost.open` and reading a tensor.

    Example:
        >>> found = milepost.stats("runs/mnist")
        >>> found["model/fc1.weight"].norm
        12.41
        >>> [one.path for one in found.tensors if not one.finite]
        []
    """
    if bins is not None and not 1 <= bins <= MOST_BINS:
        raise ScriptError("so many bins cannot be counted", expected=f"1 to {MOST_BINS:,}", found=str(bins))
    source = source if isinstance(source, TensorSource) else open_source(source)
    tensors: list[Numbers] = []
    skipped: list[tuple[str, str]] = []
    layers: dict[str, Gathered] = {}
    for path in source.specs if paths is None else select(source, paths):
        spec = source.specs[path]
        why = None if has_numbers(spec.dtype) else f"{spec.dtype.name} is read as bytes"
        if paths is None and part_of(path, source) in ("random state", "data position"):
            why = "random state and data position, unless they are named"
        if why is not None:
            skipped.append((path, why))
            continue
        gathered = Gathered()
        for block in source.blocks(path):
            gathered.add(block)
            if on_block is not None:
                on_block(path, block.nbytes)
        counted = _linear(source, path, gathered, bins) if bins is not None else None
        tensors.append(gathered.numbers(path, spec, counted))
        layers.setdefault(layer_of(path), Gathered()).merge(gathered)
    return Stats(source.where, tuple(tensors), tuple(one.numbers(path) for path, one in layers.items()), tuple(skipped))


def layer_of(path: str) -> str:
    """The layer that a tensor belongs to: its path without the last part, dots dividing parts too.

    Example:
        >>> layer_of("model/block.0.weight"), layer_of("params/Dense_0/kernel"), layer_of("bias")
        ('model/block.0', 'params/Dense_0', 'bias')
    """
    above, _, last = path.rpartition("/")
    module = last.rpartition(".")[0]
    if module:
        return f"{above}/{module}" if above else module
    return above.removesuffix("/vars") or path  # Keras numbers the variables of a layer below this word


class Gathered:
    """Statistics in the making: of blocks that are added, and of others of its kind."""

    def __init__(self) -> None:
        self.count = self.zeros = self.nans = self.infs = 0
        self.least: float | int = math.inf
        self.greatest: float | int = -math.inf
        self.mean = 0.0
        self.squares: Any = 0.0  # of deviations from the mean; numpy's long double where float64 is too short
        self.finite = 0
        self.log2: dict[int, int] = {}

    def add(self, block: npt.NDArray[Any]) -> None:
        """Take in the elements of a flat array."""
        for start in range(0, block.size, PIECE):
            piece = block[start : start + PIECE]
            whole = piece.dtype.kind in "iu"  # which floats may not hold exactly
            self._add(as_floats(piece), (int(piece.min()), int(piece.max())) if whole else None)

    def _add(self, piece: Floats, ends: tuple[int, int] | None) -> None:
        self.count += piece.size
        counts, special = _exponents(piece)
        if special:
            nans = int(np.count_nonzero(np.isnan(piece)))
            self.nans += nans
            self.infs += special - nans
            piece = piece[np.isfinite(piece)]
        for exponent, number in counts.items():
            self.log2[exponent] = self.log2.get(exponent, 0) + number
        self.zeros += piece.size - sum(counts.values())
        if piece.size:
            least, greatest = ends or (float(piece.min()), float(piece.max()))
            self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
            self._merge(piece.size, *_moments(piece))

    def _merge(self, size: int, mean: float, squares: Any) -> None:
        """Take in `size` finite elements."""
        whole = self.finite + size
        apart = np.longdouble(mean) - self.mean if _far(mean) or _far(self.mean) else mean - self.mean
        self.squares = self.squares + squares + apart * apart * (self.finite / whole * size)
        self.mean = float(self.mean + apart * (size / whole))
        self.finite = whole

    def merge(self, other: Gathered) -> None:
        """Take in what another has seen."""
        self.count, self.zeros = self.count + other.count, self.zeros + other.zeros
        self.nans, self.infs = self.nans + other.nans, self.infs + other.infs
        self.least, self.greatest = min(self.least, other.least), max(self.greatest, other.greatest)
        for exponent, number in other.log2.items():
            self.log2[exponent] = self.log2.get(exponent, 0) + number
        if other.finite:
            self._merge(other.finite, other.mean, other.squares)

    def numbers(self, path: str, spec: TensorSpec | None = None, bins: tuple[int, ...] | None = None) -> Numbers:
        """What was found."""
        some = self.finite > 0
        spread, mean = self.squares / max(1, self.finite), np.longdouble(self.mean)
        return Numbers(
            path, self.count, self.zeros, self.nans, self.infs,
            self.least if some else None,
            self.greatest if some else None,
            self.mean if some else None,
            float(np.sqrt(spread)) if some else None,
            float(np.sqrt(self.squares + mean * mean * self.finite)) if some else None,
            dict(sorted(self.log2.items())),
            spec and spec.dtype.name, spec and spec.shape, bins,
        )  # fmt: skip


def _moments(piece: Floats) -> tuple[float, Any]:
    """Mean and sum of squared deviations."""
    wide = piece.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        mean = float(wide.sum()) / wide.size
        wide -= mean
        squares = float(np.dot(wide, wide))
    if 1e-290 < squares < math.inf or not wide.any():
        return mean, squares
    # Squares beyond float64 at either end: x87 and quad have the exponents for it.
    longer = piece.astype(np.longdouble)
    exact = longer.sum() / longer.size
    longer -= exact
    return float(exact), np.dot(longer, longer)


def _far(value: float) -> bool:
    """Whether the square of `value` could leave the range of float64."""
    return value != 0 and not 1e-150 < abs(value) < 1e150


def _exponents(piece: Floats) -> tuple[dict[int, int], int]:
    """Finite elements other than zero by exponent, and the number of those that are not finite."""
    counts: npt.NDArray[Any]
    if piece.dtype == np.float32:
        bits, bias, top = piece.view(np.uint32) >> 23, 127, 255
        short = bits.astype(np.uint8)  # the sign falls off
        if short.size >= _PAIRED and short.size % 2 == 0:
            pairs = np.bincount(short.view(np.uint16), minlength=1 << 16).reshape(256, 256)
            counts = pairs.sum(0) + pairs.sum(1)
        else:
            counts = np.bincount(short, minlength=256)
    else:
        bias, top = 1023, 2047
        counts = np.bincount((piece.view(np.int64) >> 52) & top, minlength=top + 1)
    special = int(counts[top])
    found = {int(at) - bias: int(counts[at]) for at in np.flatnonzero(counts[1:top]) + 1}
    if counts[0]:  # zeros, and what is smaller than any exponent says
        small = piece[(piece != 0) & (np.abs(piece) < np.finfo(piece.dtype).smallest_normal)]
        for exponent in (np.frexp(small)[1] - 1).tolist():
            found[exponent] = found.get(exponent, 0) + 1
    return found, special


def _linear(source: TensorSource, path: str, gathered: Gathered, bins: int) -> tuple[int, ...]:
    """Finite elements of a tensor in equal bins: each has its lower end in it, the last one its upper end too."""
    total = np.zeros(bins, np.int64)
    if gathered.finite:
        low, high = float(gathered.least), float(gathered.greatest)
        size = math.frexp(max(abs(low), abs(high)))[1]  # what is divided by it neither overflows nor loses digits
        low, high = math.ldexp(low, -size), math.ldexp(high, -size)
        for block in source.blocks(path):
            floats = as_floats(block)
            apart = np.ldexp(floats[np.isfinite(floats)].astype(np.float64), -size) - low
            share = apart / (high - low) if high > low else apart
            total += np.bincount(np.minimum((share * bins).astype(np.int64), bins - 1), minlength=bins)
    return tuple(total.tolist())
