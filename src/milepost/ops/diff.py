"""`milepost.diff`: what differs between two checkpoints, of whatever formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from milepost.core import values, words
from milepost.core.brief import brief
from milepost.core.source import TensorSource, TensorSpec
from milepost.core.table import Cell, Column, Styled, table
from milepost.core.text import safe
from milepost.errors import NotFoundError
from milepost.ops import renaming
from milepost.ops.distance import Distance, distance
from milepost.ops.matching import matching
from milepost.ops.numbers import has_numbers
from milepost.ops.refs import open as open_source

Verdict = Literal["same", "changed", "dtype", "shape", "added", "removed", "kind"]
"""`dtype`: of another type, whatever the values; `shape`: of another shape; `kind`: a tensor here, a plain value there."""


@dataclass(frozen=True)
class TensorDiff:
    """One tensor in a and b. `old` is its path in a where that is another.

    `distance` is None where there is nothing to measure: on one side only, of another shape, or equal by `digests`.
    """

    path: str
    verdict: Verdict
    a: TensorSpec | None
    b: TensorSpec | None
    old: str | None = None
    distance: Distance | None = None
    digests: bool = False


@dataclass(frozen=True)
class ValueDiff:
    """One plain value in a and b, each in one line; None where it is not."""

    path: str
    verdict: Verdict
    a: str | None
    b: str | None
    old: str | None = None


@dataclass(frozen=True)
class Diff:
    """What `diff` found. `unmatched` are the renames that no path fitted."""

    a: str
    b: str
    tensors: tuple[TensorDiff, ...] = field(repr=False)
    values: tuple[ValueDiff, ...] = field(repr=False)
    unmatched: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.changed

    @property
    def changed(self) -> list[TensorDiff | ValueDiff]:
        """All that differs."""
        return [one for one in self.everything if one.verdict != "same"]

    @property
    def everything(self) -> tuple[TensorDiff | ValueDiff, ...]:
        """Tensors, then plain values."""
        return (*self.tensors, *self.values)

    def summary(self) -> str:
        """How much differs, in a line."""
        parts = []
        groups: list[tuple[str, Sequence[TensorDiff | ValueDiff]]] = [
            ("tensor", self.tensors), ("plain value", self.values)
        ]  # fmt: skip
        for noun, found in groups:
            counts: dict[str, int] = {}
            for one in found:
                counts[_SUMMED[one.verdict]] = counts.get(_SUMMED[one.verdict], 0) + 1
            if counts:
                told = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items())
                parts.append(f"{words.count(len(found), noun)}: {told}")
        return "; ".join(parts) or "nothing to compare"

    def __str__(self) -> str:
        lines, _ = table(COLUMNS, rows_of(self, only_changed=True))
        return "\n".join([f"{safe(self.a)} → {safe(self.b)}", *lines, self.summary()])


_SUMMED: dict[Verdict, str] = {
    "same": "same", "changed": "changed", "dtype": "of another type", "shape": "reshaped", "added": "added",
    "removed": "removed", "kind": "of another kind",
}  # fmt: skip
COLUMNS = [
    Column("", least=1), Column("PATH", least=20, end=True), Column("TYPE", optional=2, least=8), Column("VALUE", least=12),
    Column("REL L2", right=True), Column("MAX ABS", right=True), Column("COSINE", right=True, optional=3),
    Column("NOTES", least=10),
]  # fmt: skip
"""Of a table of differences."""
_MARKS: dict[Verdict, Styled] = {
    "same": Styled("=", "dim"), "changed": Styled("~", "yellow"), "dtype": Styled("~", "yellow"), "shape": Styled("~", "yellow"),
    "kind": Styled("~", "yellow"), "added": Styled("+", "green"), "removed": Styled("-", "red"),
}  # fmt: skip


def diff(
    a: TensorSource | str | os.PathLike[str],
    b: TensorSource | str | os.PathLike[str],
    paths: Sequence[str] | None = None,
    *,
    rename: Mapping[str, str] | None = None,
    atol: float = 0.0,
    rtol: float = 0.0,
    on_tensor: Callable[[str, int], None] | None = None,
) -> Diff:
    """Compare two checkpoints, tensor by tensor and value by value. Tensors are read in blocks; those whose digests both sides
    know to be equal are not read.

    NaN is equal to NaN at the same place. A tensor of another type differs, unless a tolerance is given that its values keep to.

    Args:
        a: the one to start from, as `milepost.open` returns it, or the REF to open.
        b: the other.
        paths: only these, in b's names, and what is below them; ``*`` and ``?`` stand for any characters. All if None.
        rename: old to new: paths of a that are called otherwise in b, what they begin with, or patterns
            (see `milepost.ops.renaming.rename`).
        atol: differences up to ``atol + rtol * abs(a)`` are none.
        rtol: see there.
        on_tensor: told the path and bytes of each tensor before it is read.

    Raises:
        NotFoundError: there is nothing at one of `paths`.
        ScriptError: `rename` cannot be applied.
        DamagedError: bytes differ from their digest.
        others as `milepost.open` and reading a tensor.

    Example:
        >>> found = milepost.diff("runs/a@best", "model.pt", rename={"model/": ""})
        >>> found.same, [one.path for one in found.changed]
        (False, ['fc1.weight'])
    """
    a = a if isinstance(a, TensorSource) else open_source(a)
    b = b if isinstance(b, TensorSource) else open_source(b)
    renamed = renaming.rename([*a.specs, *a.plain], rename or {})
    theirs = dict.fromkeys([*b.specs, *b.plain])
    every = renamed.names | {path: path for path in theirs if path not in renamed.names}
    tensors: list[TensorDiff] = []
    plain: list[ValueDiff] = []
    for path in every if paths is None else _wanted(every, paths, b.where):
        old = renamed.names.get(path)
        if (old is not None and old in a.specs) or path in b.specs:
            if on_tensor is not None and path in b.specs:
                on_tensor(path, b.specs[path].nbytes)
            tensors.append(_tensor(a, b, path, old, atol, rtol))
        else:
            plain.append(_value(a, b, path, old, atol, rtol))
    return Diff(a.where, b.where, tuple(tensors), tuple(plain), tuple(renamed.unmatched))


def _wanted(every: Mapping[str, str], paths: Sequence[str], where: str) -> list[str]:
    found: dict[str, None] = {}
    for one in paths:
        meant = matching(every, one)
        if not meant:
            raise NotFoundError(f"nothing in either is at {one!r}", where=where, hint="paths are those of the second")
        found |= dict.fromkeys(meant)
    return [path for path in every if path in found]


def _tensor(a: TensorSource, b: TensorSource, path: str, old: str | None, atol: float, rtol: float) -> TensorDiff:
    ours, theirs = a.specs.get(old) if old is not None else None, b.specs.get(path)
    shown = old if old != path else None
    if ours is None or theirs is None or old is None:
        there = path in b.plain if theirs is None else old is not None
        verdict: Verdict = "kind" if there else "removed" if theirs is None else "added"
        return TensorDiff(path, verdict, ours, theirs, shown)
    if ours.shape != theirs.shape:
        return TensorDiff(path, "shape", ours, theirs, shown)
    known = a.digest(old)
    if known is not None and known == b.digest(path):
        return TensorDiff(path, "same", ours, theirs, shown, digests=True)
    if not (has_numbers(ours.dtype) and has_numbers(theirs.dtype)):
        same = ours.dtype == theirs.dtype and a[old].tobytes() == b[path].tobytes()
        return TensorDiff(path, "same" if same else "changed", ours, theirs, shown)
    found = distance(a.blocks(old), b.blocks(path), atol, rtol)
    verdict = "changed" if found.beyond else "same"
    if ours.dtype != theirs.dtype and not ((atol or rtol) and verdict == "same"):
        verdict = "dtype"
    return TensorDiff(path, verdict, ours, theirs, shown, found)


def _value(a: TensorSource, b: TensorSource, path: str, old: str | None, atol: float, rtol: float) -> ValueDiff:
    ours = values.encode(a.plain[old], old) if old is not None else None
    theirs = values.encode(b.plain[path], path) if path in b.plain else None
    shown = old if old != path else None
    if old is None:
        return ValueDiff(path, "added", None, brief(theirs))
    if path not in b.plain:
        return ValueDiff(path, "removed", brief(ours), None, shown)
    same = bool(ours == theirs and type(ours) is type(theirs))
    if not same and isinstance(ours, int | float) and isinstance(theirs, int | float) and (atol or rtol):
        same = not isinstance(ours, bool) and abs(theirs - ours) <= atol + rtol * abs(ours)
    return ValueDiff(path, "same" if same else "changed", brief(ours), brief(theirs), shown)


def rows_of(found: Diff, *, only_changed: bool = False) -> list[list[Cell]]:
    """Rows for `COLUMNS`, safe to show."""
    rows: list[list[Cell]] = []
    for one in found.changed if only_changed else found.everything:
        path = safe(one.path)
        cells = _tensor_cells(one) if isinstance(one, TensorDiff) else ["", _both(one.a, one.b), "", "", "", ""]
        rows.append([_MARKS[one.verdict], path, *cells])
    return rows


def _tensor_cells(one: TensorDiff) -> list[Cell]:
    kinds = _both(one.a and one.a.dtype.name, one.b and one.b.dtype.name)
    shapes = _both(one.a and words.shape(one.a.shape), one.b and words.shape(one.b.shape))
    found, notes = one.distance, []
    if one.verdict == "kind":
        notes.append("a plain value in the other")
    if found is None:
        return [kinds, shapes, "", "", "", ", ".join(notes)]
    if found.unequal:
        differ = "1 differs" if found.unequal == 1 else f"{found.unequal:,} differ"
        if not found.beyond:
            differ = f"{found.unequal:,} within tolerance"
        elif found.beyond != found.unequal:
            differ = f"{found.beyond:,} of {found.unequal:,} beyond tolerance"
        notes.append(differ)
    if found.lone:
        notes.append(f"{found.lone:,} with NaN or infinity in one only")
    if found.nans:
        notes.append(f"{found.nans:,} NaN in both")
    numbers = ["", "", ""]
    if found.unequal:
        cosine = "" if found.cosine is None else f"{found.cosine:.6f}"
        numbers = [words.number(found.relative_l2), words.number(found.max_abs), cosine]
    return [kinds, shapes, *numbers, ", ".join(notes)]


def _both(a: str | None, b: str | None) -> str:
    if a is None or b is None or a == b:
        return safe(a or b or "")
    return f"{safe(a)} → {safe(b)}"
