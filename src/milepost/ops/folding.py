"""A long tree made short: what is alike becomes one line, and what is left out is counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from milepost.ops.contents import Entry

_NUMBERS = re.compile(r"([0-9]{1,18})")
_KEPT = (40, 20, 10, 5, 3, 2, 1)
"""Values of a container that are kept before its last one, until all fits."""


class Line(NamedTuple):
    """One line of a tree.

    `entry` is what it shows, under `name`; of several that are alike (`times`) the first, with the bytes of all. `hidden` counts
    the values below it that are not shown. Where `entry` is None, the line stands for `times` neighbours that are left out, with
    `nbytes` and `hidden` values in all.
    """

    entry: Entry | None
    depth: int
    name: str
    times: int = 1
    hidden: int = 0
    nbytes: int = 0


class _Branch:
    """A value, and what is in it."""

    __slots__ = ("below", "closed", "entry", "has_tensors", "kin", "name", "times")

    def __init__(self, entry: Entry, name: str) -> None:
        self.entry, self.name = entry, name
        self.below: list[_Branch] = []
        self.has_tensors = entry.spec is not None
        self.times = 1
        self.closed = False
        self.kin = 0
        """The same number for what would be shown the same, but for its own name."""

    def values(self) -> int:
        """Tensors and plain values in it (itself, if it holds no others)."""
        return self.times * (sum(one.values() for one in self.below) if self.below else 1)

    def lines(self) -> int:
        return 1 + (0 if self.closed else sum(one.lines() for one in self.below))


def fold(entries: list[Entry], most: int | None, depth: int | None = None) -> list[Line]:
    """The lines of a tree, `most` or little more.

    Args:
        entries: containers before what is in them, as `milepost.ops.outline.outline` returns them.
        most: lines; None for any number.
        depth: levels that are shown; None for all.

    What gives way first: groups of plain values alone are closed; names that differ in a number only, with the same below them,
    become one; of long groups the first few and the last are shown; levels are closed from the deepest on.
    """
    tops = _branches(entries)
    if depth is not None:
        _each(tops, lambda one, level: _close(one, level + 1 >= depth))
    if most is None or _count(tops) <= most:
        return _lines(tops, None)
    _each(tops, lambda one, level: _close(one, not one.has_tensors))
    if _count(tops) > most:
        tops = _alike(tops, {})
    for kept in (None, *_KEPT):
        lines = _lines(tops, kept)
        if len(lines) <= most:
            return lines
    for level in range(max(entry.depth for entry in entries), 0, -1):
        _each(tops, lambda one, at, level=level: _close(one, at >= level))  # type: ignore[misc]
        lines = _lines(tops, _KEPT[2])
        if len(lines) <= most:
            return lines
    return _lines(tops, _KEPT[2])


def _branches(entries: list[Entry]) -> list[_Branch]:
    tops: list[_Branch] = []
    above: list[_Branch] = []
    for entry in entries:
        # Below its parent only the last part is shown; the first line has the whole path.
        branch = _Branch(entry, entry.path.rpartition("/")[2] if entry.depth else entry.path)
        del above[entry.depth :]
        (above[-1].below if above else tops).append(branch)
        if branch.has_tensors:
            for one in reversed(above):
                if one.has_tensors:
                    break
                one.has_tensors = True
        above.append(branch)
    return tops


def _each(branches: list[_Branch], act: Callable[[_Branch, int], None], level: int = 0) -> None:
    for one in branches:
        act(one, level)
        _each(one.below, act, level + 1)


def _close(one: _Branch, yes: bool) -> None:
    one.closed = one.closed or (yes and bool(one.below))


def _count(branches: list[_Branch]) -> int:
    return sum(one.lines() for one in branches)


def _alike(branches: list[_Branch], kins: dict[tuple[object, ...], int]) -> list[_Branch]:
    """`branches`, those of one kind merged into the first of them; `kins` has the number of each kind.

    Alike are those whose names differ in numbers only, with the same in them.
    """
    groups: dict[tuple[str, int], list[_Branch]] = {}
    for one in branches:
        if one.below:
            one.below = _alike(one.below, kins)
        entry = one.entry
        told = None if entry.encoded is None or entry.size is not None else str(entry.encoded)
        inner = tuple((below.kin, below.name) for below in one.below)
        kin = (entry.kind, entry.spec, entry.tied_to, entry.finite, told, inner)
        one.kin = kins.setdefault(kin, len(kins))
        groups.setdefault((_NUMBERS.sub("#", one.name), one.kin), []).append(one)
    merged = []
    for group in groups.values():
        first = group[0]
        if len(group) > 1:
            first.name = _names([one.name for one in group])
            first.times = len(group)
            first.entry = first.entry._replace(
                nbytes=sum(one.entry.nbytes for one in group), shared=sum(one.entry.shared for one in group)
            )
        merged.append(first)
    return merged


def _names(names: list[str]) -> str:
    """Names that differ in numbers only, as one: ``block.{0…11}.weight``."""
    parts = _NUMBERS.split(names[0])
    columns = zip(*map(_NUMBERS.findall, names), strict=True)
    for at, column in zip(range(1, len(parts), 2), columns, strict=True):
        numbers = sorted(set(map(int, column)))
        if len(numbers) > 1:
            steps = numbers[-1] - numbers[0] == len(numbers) - 1
            parts[at] = f"{{{numbers[0]}{'…' if steps else ', … '}{numbers[-1]}}}"
    return "".join(parts)


def _lines(branches: list[_Branch], kept: int | None, depth: int = 0) -> list[Line]:
    found = []
    drop = range(0) if kept is None or len(branches) <= kept + 2 else range(kept, len(branches) - 1)
    for index, one in enumerate(branches):
        if index in drop:
            if index == drop[0]:
                out = [branches[at] for at in drop]
                nbytes, hidden = sum(one.entry.nbytes for one in out), sum(one.values() for one in out)
                found.append(Line(None, depth, "…", sum(one.times for one in out), hidden, nbytes))
            continue
        hidden = one.values() // one.times if one.closed else 0
        found.append(Line(one.entry, depth, one.name, one.times, hidden))
        if not one.closed:
            found += _lines(one.below, kept, depth + 1)
    return found
