"""Columns of text, as wide as they must be and as narrow as the terminal asks."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

GAP = "  "


class Column(NamedTuple):
    """A column. One that is empty in every row is not shown.

    `right` aligns it so. `least` is the number of cells it may be cut down to on a narrow terminal (None: never); of what is cut,
    `end` keeps the end, which is what paths differ in. Where cutting is not enough, columns are left out: those with the highest
    `optional` first, of equals the last; 0 stays.
    """

    title: str
    right: bool = False
    least: int | None = None
    optional: int = 0
    end: bool = False


class Styled(NamedTuple):
    """Text in a colour: red, green, yellow, dim or bold."""

    text: str
    colour: str


Cell = str | Styled


def cells(text: str) -> int:
    """Terminal cells that `text` (without control characters) takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(char) for char in text)


def cut(text: str, room: int, *, end: bool = False) -> str:
    """`text`, cut to `room` cells with an ellipsis if it is longer: its beginning, or its `end`."""
    if cells(text) <= room:
        return text
    shown, used = [], 1
    for char in reversed(text) if end else text:
        used += _cells(char)
        if used > room:
            break
        shown.append(char)
    return "…" + "".join(reversed(shown)) if end else "".join(shown) + "…"


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    room: int | None = None,
    *,
    titles: bool = True,
    paint: Callable[[str, str], str] = lambda text, colour: text,
) -> tuple[list[str], list[str]]:
    """Lay out `rows`, whose texts must be safe, under the titles of `columns`.

    Args:
        columns: one for each cell of a row.
        rows: the cells.
        room: cells that a line may take; None for any number.
        titles: whether a line of titles comes first.
        paint: gives a text its colour.

    Returns:
        The lines, and the titles of the columns that there was no room for.
    """
    if not rows:
        return [], []
    texts = [[cell if isinstance(cell, str) else cell.text for cell in row] for row in rows]
    used = [index for index in range(len(columns)) if any(row[index] for row in texts)]
    widths = {index: max(cells(row[index]) for row in texts) for index in used}
    if titles:
        widths = {index: max(width, len(columns[index].title)) for index, width in widths.items()}
    left_out = _fit(columns, widths, room)
    lines = []
    if titles:
        head = [_placed(columns[index].title, width, columns[index].right) for index, width in widths.items()]
        lines.append(paint(GAP.join(head).rstrip(), "bold"))
    order = list(widths.items())
    for row, shown in zip(rows, texts, strict=True):
        parts = []
        for index, width in order:
            text = _placed(cut(shown[index], width, end=columns[index].end), width, columns[index].right)
            cell = row[index]
            parts.append(text if isinstance(cell, str) else paint(text, cell.colour))
        lines.append(GAP.join(parts).rstrip())
    return lines, [columns[index].title for index in left_out]


def _fit(columns: Sequence[Column], widths: dict[int, int], room: int | None) -> list[int]:
    """Narrow `widths` until a line fits into `room`, dropping optional columns if need be; returns those."""
    left_out: list[int] = []
    if room is None:
        return left_out
    while (excess := sum(widths.values()) + len(GAP) * (len(widths) - 1) - room) > 0:
        spare = {index: widths[index] - least for index in widths if (least := columns[index].least) is not None}
        if excess <= sum(max(0, cells) for cells in spare.values()):
            # The widest gives first: short columns stay whole as long as they can.
            for _ in range(excess):
                widest = max((index for index in spare if spare[index] > 0), key=lambda index: widths[index])
                widths[widest] -= 1
                spare[widest] -= 1
            break
        least = max(widths, key=lambda index: (columns[index].optional, index))
        if not columns[least].optional:
            for index, cells in spare.items():
                widths[index] -= max(0, cells)
            break
        left_out.append(least)
        del widths[least]
    return sorted(left_out)


def _placed(text: str, width: int, right: bool) -> str:
    padding = " " * (width - cells(text))
    return padding + text if right else text + padding


def _cells(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
