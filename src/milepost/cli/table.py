"""Columns of text in the colours of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from milepost.cli.terminal import paint
from milepost.core import table as layout
from milepost.core.table import Cell, Column, Styled, cells, cut

__all__ = ["Cell", "Column", "Styled", "cells", "cut", "table"]


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], room: int | None = None, *, titles: bool = True
) -> tuple[list[str], list[str]]:
    """As `milepost.core.table.table`, painted."""
    return layout.table(columns, rows, room, titles=titles, paint=paint)
