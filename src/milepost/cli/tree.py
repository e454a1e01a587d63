"""The tree of what is in a checkpoint, as `milepost show` draws it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from milepost.cli.table import Cell, Column, Styled, table
from milepost.cli.terminal import note, say, width
from milepost.core import words
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.ops.contents import Entry
    from milepost.ops.folding import Line

MOST = 100
"""Lines of a tree in a terminal without --all."""
_CLASS = re.compile(r".*[.:](?=.)", re.DOTALL)
"""What stands before the name of a class itself, for which there is no room."""
_COLUMNS = [
    Column("PATH", least=24), Column("TYPE", least=8), Column("VALUE", least=12), Column("SIZE", right=True),
    Column("NOTES", least=8),
]  # fmt: skip


def say_tree(entries: list[Entry], notes: Mapping[str, str], *, show_all: bool, depth: int | None) -> None:
    """Draw `entries`: all of them where the output is no terminal, so that it can be searched."""
    from milepost.ops.folding import fold

    columns = width()
    found = fold(entries, None if show_all or columns is None else MOST, depth)
    lines, _ = table(_COLUMNS, [_cells(line, notes) for line in found], columns)
    if lines:
        say("\n".join(lines))
    if any(line.entry is None or line.hidden or line.times > 1 for line in found):
        values = sum(entry.size is None for entry in entries)
        note(
            f"{words.count(values, 'value')} in {words.count(len(found), 'line')}; --all shows each, PATH what is below it"
        )


def _cells(line: Line, notes: Mapping[str, str]) -> list[Cell]:
    entry, indent = line.entry, "  " * line.depth
    if entry is None:
        size = words.size(line.nbytes) if line.nbytes else ""
        inner = f", {words.count(line.hidden, 'value')}" if line.hidden != line.times else ""
        return [Styled(f"{indent}… {line.times:,} more{inner}", "dim"), "", "", size, ""]
    word = notes.get(entry.path) if line.times == 1 else None
    said = [safe(word)] if word is not None and word != line.name else []
    if line.times > 1:
        said.append(f"{line.times:,} alike")
    if entry.tied_to is not None:
        said.append(f"tied to {safe(entry.tied_to)}")
    if entry.shards > 1:
        said.append(f"{entry.shards} shards")
    if not entry.finite:
        said.append("NaN or infinity")
    name = indent + safe(line.name)
    size = words.size(entry.nbytes) if entry.nbytes else ""
    if entry.spec is None:
        value = safe(entry.text) if entry.size is None else words.count(line.hidden or entry.size, "value")
        if entry.shared:
            said.append(f"{words.size(entry.shared)} shared")
        kind = entry.kind if entry.size is None else _CLASS.sub("", entry.kind)
        return [Styled(name, "bold") if entry.nbytes else name, safe(kind), value, size, ", ".join(said)]
    if entry.shared:
        said.append("shared")
    size = "" if entry.tied_to is not None else words.size(entry.nbytes)
    return [name, entry.spec.dtype.name, words.shape(entry.spec.shape), size, ", ".join(said)]
