"""``milepost stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import complete
from milepost.cli.options import Json, SourceArgument
from milepost.cli.table import Cell, Column, Styled, say_table, table
from milepost.cli.terminal import Progress, document, note, paint, say, width
from milepost.core import words
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.ops.stats import Numbers, Stats

WIDE = 24
"""Cells that all exponents together take in a row at most."""
_BARS = " ▁▂▃▄▅▆▇█"
_LONGEST = 40
"""Cells of the longest bar of a histogram."""


def stats(
    ref: SourceArgument,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH...]",
            help="Only these tensors; * and ? stand for any characters.",
            autocompletion=complete.paths,
        ),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="A line per layer rather than per tensor.")] = False,
    bins: Annotated[
        int | None,
        typer.Option("--bins", metavar="N", min=1, max=10_000, help="Count in N equal bins from MIN to MAX."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Show where the numbers of a checkpoint lie.

    MIN, MAX, MEAN, STD and NORM are of the finite elements; of complex numbers, of their magnitudes. The last column
    shows how many elements have which power of two as their size, on one scale for all rows. A single tensor is shown
    with its histogram; so are all with --bins. Random state and the place in the data are left out unless they are
    named. Exit code 1 says that there is a NaN or an infinity.

    For example:

        milepost stats runs/mnist@best model
        milepost stats model.safetensors '*.weight' --layers
        milepost stats model.pt fc1.weight --bins 20

    JSON:

        where, finite, skipped: {PATH: WHY},
        tensors: {PATH: {dtype, shape, count, zeros, nans, infs, min, max, mean, std, norm,
                         log2: {EXPONENT: COUNT}, bins}}
        layers: the same without dtype, shape and bins
        log2 counts x with 2**EXPONENT <= abs(x) < 2**(EXPONENT + 1); bins is null without --bins
    """
    from milepost.ops.refs import open as open_source
    from milepost.ops.stats import stats as find

    source = open_source(ref)
    with Progress() as progress:
        done = 0

        def on_block(path: str, nbytes: int) -> None:
            nonlocal done
            done += nbytes
            progress.show(f"{words.size(done)}: {safe(path)}", often=True)

        found = find(source, paths or None, bins=bins, on_block=on_block)
    finite = all(one.finite for one in found.tensors)
    if as_json:
        document(_as_json(found, finite=finite))
    else:
        _say(found, layers=layers)
    return 0 if finite else 1


def _say(found: Stats, *, layers: bool) -> None:
    shown = found.layers if layers else found.tensors
    _say_table(shown)
    if len(found.tensors) == 1 or any(one.bins for one in found.tensors):
        for one in found.tensors:
            say()
            _say_histogram(one)
    reasons = [why for _, why in found.skipped]
    for why in dict.fromkeys(reasons):
        note(f"left out: {words.count(reasons.count(why), 'tensor')}: {safe(why)}")
    if not found.tensors and not found.skipped:
        note("no tensors")
    bad = [one for one in found.tensors if not one.finite]
    if bad:
        note(f"NaN or infinity in {words.count(len(bad), 'tensor')}, the first {safe(bad[0].path)}")


def _say_table(shown: tuple[Numbers, ...]) -> None:
    from milepost.ops.stats import COLUMNS, cells_of

    exponents = [exponent for one in shown for exponent in one.log2]
    low, step = min(exponents, default=0), 1
    while (max(exponents, default=0) - low) // step >= WIDE:
        step += 1
    count = (max(exponents, default=0) - low) // step + 1
    title = f"2^{low}..2^{low + step * count}"
    rows: list[list[Cell]] = []
    for one in shown:
        row: list[Cell] = list(cells_of(one))
        row[-2:] = [Styled(str(cell), "red") if cell else cell for cell in row[-2:]]
        heights = [0] * count
        for exponent, number in one.log2.items():
            heights[(exponent - low) // step] += number
        rows.append([*row, _line(heights)])
    say_table([*COLUMNS, Column(title, optional=2)], rows)


def _line(heights: list[int]) -> str:
    """Bars one cell wide; what is there at all is seen."""
    most, steps = max(heights), len(_BARS) - 1
    return "".join(_BARS[-(-height * steps // most)] for height in heights) if most else ""


def _say_histogram(one: Numbers) -> None:
    if one.bins is not None and one.least is not None and one.greatest is not None:
        step = (one.greatest - one.least) / len(one.bins)
        rows = [(words.number(one.least + step * index), number) for index, number in enumerate(one.bins)]
        say(paint(f"{safe(one.path)}: {words.count(len(rows), 'bin')} of {words.number(step)}", "bold"))
    else:
        rows = (
            [(f"2^{exponent}", one.log2.get(exponent, 0)) for exponent in range(min(one.log2), max(one.log2) + 1)]
            if one.log2
            else []
        )
        rows = [("0", one.zeros), *rows] if one.zeros else rows
        say(paint(f"{safe(one.path)}: elements by size", "bold"))
    most = max((number for _, number in rows), default=0)
    columns = [Column("FROM", right=True), Column("ELEMENTS", right=True), Column("", least=1)]
    lines, _ = table(columns, [[name, f"{number:,}", _bar(number, most)] for name, number in rows], width())
    say("\n".join(lines))


def _bar(number: int, most: int) -> str:
    eighths = -(-number * _LONGEST * 8 // most) if most else 0
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _as_json(found: Stats, *, finite: bool) -> dict[str, Any]:
    tensors = {
        one.path: {
            "dtype": one.dtype,
            "shape": list(one.shape or ()),
            **_numbers_json(one),
            "bins": one.bins and list(one.bins),
        }
        for one in found.tensors
    }
    layers = {one.path: _numbers_json(one) for one in found.layers}
    return {
        "where": found.where, "finite": finite, "skipped": dict(found.skipped), "tensors": tensors, "layers": layers
    }  # fmt: skip


def _numbers_json(one: Numbers) -> dict[str, Any]:
    from math import isfinite

    ends = {"min": one.least, "max": one.greatest, "mean": one.mean, "std": one.std, "norm": one.norm}
    return {
        "count": one.count, "zeros": one.zeros, "nans": one.nans, "infs": one.infs,
        **{name: value if value is None or isfinite(value) else repr(value) for name, value in ends.items()},
        "log2": {str(exponent): number for exponent, number in one.log2.items()},
    }  # fmt: skip
