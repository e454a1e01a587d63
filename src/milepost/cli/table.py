"""Columns of text in the colours of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from milepost.cli.terminal import note, paint, say, width
from milepost.core import table as layout
from milepost.core.table import Cell, Column, Styled, cells, cut

__all__ = ["Cell", "Column", "Styled", "cells", "cut", "say_table", "table"]


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], room: int | None = None, *, titles: bool = True
) -> tuple[list[str], list[str]]:
    """As `milepost.core.table.table`, painted."""
    return layout.table(columns, rows, room, titles=titles, paint=paint)


def say_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table as wide as the terminal, and what there was no room for."""
    lines, left_out = table(columns, rows, width())
    if lines:
        say("\n".join(lines))
    if left_out:
        note(f"no room for {', '.join(left_out)}; --json has all")
