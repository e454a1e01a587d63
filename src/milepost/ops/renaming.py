"""Names of one checkpoint in terms of another: ``OLD=NEW``, for paths, for what they begin with, and for patterns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from milepost.errors import ScriptError
from milepost.ops.matching import is_pattern, pattern

_ENDS = ("/", ".")
"""What divides the levels of a path, and those of a framework's own names."""


class Renamed(NamedTuple):
    """New name -> old name, and the rules that applied to nothing."""

    names: dict[str, str]
    unmatched: list[str]


def rename(paths: Iterable[str], rules: Mapping[str, str]) -> Renamed:
    """Give each of `paths` its new name: by the first rule that fits it, or its own.

    ``{"model/": "params/"}`` is for all paths that begin so; ``{"fc1": "dense"}`` for that path, and what is below it (after a
    ``/`` or ``.``); ``{"": "model/"}`` for all. In a pattern (``{"model/*.weight": "params/*/kernel"}``) the new name has what each
    ``*`` stood for, one after the other.

    Raises:
        ScriptError: a new name with another number of ``*`` than the old one; two paths that would have one name.

    Example:
        >>> rename(["model/fc1.weight", "step"], {"model/": ""}).names
        {'fc1.weight': 'model/fc1.weight', 'step': 'step'}
    """
    for old, new in rules.items():
        if ("?" not in old and new.count("*") not in (0, old.count("*"))) or (is_pattern(new) and not is_pattern(old)):
            raise ScriptError("old and new name differ in the number of *", found=f"{old}={new}")
    names: dict[str, str] = {}
    used: set[str] = set()
    for path in paths:
        new = path
        for old, to in rules.items():
            changed = _apply(path, old, to)
            if changed is not None:
                new = changed
                used.add(old)
                break
        if new in names:
            raise ScriptError(
                "two values would have one name",
                found=f"{names[new]!r} and {path!r} as {new!r}",
                hint="map fewer of them",
            )
        names[new] = path
    return Renamed(names, [old for old in rules if old not in used])


def _apply(path: str, old: str, new: str) -> str | None:
    """The name of `path` under one rule; None if that is not for it."""
    if is_pattern(old):
        found = pattern(old).fullmatch(path)
        if found is None:
            return None
        kept, *parts = new.split("*")
        return kept + "".join(piece + part for piece, part in zip(found.groups(), parts, strict=False))
    if path == old:
        return new or None  # nothing has no name
    begins = path.startswith(old) and (not old or old.endswith(_ENDS) or path[len(old)] in _ENDS)
    return (new + path[len(old) :]) or None if begins else None


def suggest(here: Iterable[str], there: Iterable[str]) -> str | None:
    """A rule ``OLD=NEW`` under which most of the paths `here` are there, where one of the two has a level more above; or None."""
    ours, theirs = list(here), set(there)
    for old, new in ((_top(ours), ""), ("", _top(theirs)), (_top(ours), _top(theirs))):
        if old is not None and new is not None and (old or new):
            hits = sum(new + path.removeprefix(old) in theirs for path in ours if path.startswith(old))
            if hits and hits >= len(theirs) / 2:
                return f"{old}={new}"
    return None


def _top(paths: Iterable[str]) -> str | None:
    """The first level, with its ``/``, of most of `paths`."""
    counts: dict[str, int] = {}
    for path in paths:
        top, mark, _ = path.partition("/")
        if mark:
            counts[top + mark] = counts.get(top + mark, 0) + 1
    return max(counts, key=lambda top: counts[top], default=None)
