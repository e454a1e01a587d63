"""The tree of any source, from the paths of what is in it: for formats that have no manifest to say more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from milepost.core import values
from milepost.core.brief import brief, kind_of
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import NotFoundError
from milepost.ops.contents import Entry
from milepost.ops.matching import is_pattern, pattern

MOST_COMPARED = 5000
"""Paths that are looked at for one like the one that is not there."""
CLASS = "~class"
"""The last part of the path at which an object's class is told (see `milepost.formats.unpickled`)."""


class _Node:
    """What is at a path: a tensor, a plain value, things below it."""

    __slots__ = ("below", "nbytes", "path", "plain", "spec")

    def __init__(self, path: str) -> None:
        self.path = path
        self.below: dict[str, _Node] = {}
        self.spec: TensorSpec | None = None
        self.plain: list[Any] = []  # none, or the one there is
        self.nbytes = 0


def outline(source: TensorSource) -> list[Entry]:
    """What is in `source`, containers before what is in them.

    Example:
        >>> [entry.path for entry in outline(milepost.open("model.pt"))]
        ['epoch', 'model', 'model/fc1.weight', 'model/fc1.bias']
    """
    root = _Node("")
    for path, spec in source.specs.items():
        node = _reach(root, path, spec.nbytes)
        node.spec = spec
    for path, value in source.plain.items():
        _reach(root, path, 0).plain = [value]
    return [entry for node in root.below.values() for entry in _entries(node, 0)]


def picked(source: TensorSource, entries: list[Entry], wanted: Sequence[str]) -> list[Entry]:
    """Those of the `entries` of `source` that are at or below one of the paths `wanted`, or fit it as a pattern; all if there is
    none. What stands at the top is at depth 0.

    Raises:
        NotFoundError: one of them means nothing.
    """
    if not wanted:
        return entries
    found: dict[str, Entry] = {}
    places = {entry.path: index for index, entry in enumerate(entries)}
    for one in wanted:
        path = one.rstrip("/")
        first = places.get(path)
        if first is not None:
            depth = entries[first].depth
            last = next((at for at in range(first + 1, len(entries)) if entries[at].depth <= depth), len(entries))
            meant = [entry._replace(depth=entry.depth - depth) for entry in entries[first:last]]
        elif is_pattern(path):
            fits = pattern(path).fullmatch
            meant = [entry._replace(depth=0) for entry in entries if entry.size is None and fits(entry.path)]
        else:
            meant = []
        if not meant:
            raise nothing_at(source, one)
        found |= {entry.path: entry for entry in meant}
    return list(found.values())


def nothing_at(source: TensorSource, path: str) -> NotFoundError:
    """The error where nothing is at `path`, or nothing fits it."""
    from difflib import get_close_matches

    if is_pattern(path):
        hint = "`milepost show` lists what is there; quote patterns, or the shell takes them for names of files"
        return NotFoundError(f"nothing fits {path!r}", where=source.where, hint=hint)
    known = [*source.specs, *source.plain]
    known += dict.fromkeys(other.partition("/")[0] for other in known)
    if any(other.startswith(path + "/") for other in known):
        hint = f"other values are below it: `milepost show {source.where} {path}` lists them"
    else:
        near = get_close_matches(path, known[:MOST_COMPARED], 1)
        hint = f"did you mean {near[0]!r}?" if near else "`milepost show` without it lists all"
    return NotFoundError(f"there is nothing at {path!r}", where=source.where, hint=hint)


def _reach(root: _Node, path: str, nbytes: int) -> _Node:
    """The node of `path`; `nbytes` are added to all above it, and to it."""
    node, done = root, ""
    for part in path.split("/"):
        done = f"{done}/{part}" if done else part
        inner = node.below.get(part)
        if inner is None:
            inner = node.below[part] = _Node(done)
        node = inner
        node.nbytes += nbytes
    return node


def _entries(top: _Node, depth: int) -> Iterator[Entry]:
    waiting = [(top, depth)]
    while waiting:
        node, level = waiting.pop()
        below = dict(node.below)
        told = below.pop(CLASS, None)
        if node.spec is not None:
            yield Entry(node.path, level, "tensor", node.spec, None, node.spec.nbytes, 0, None, 1, True, None, "")
        elif node.plain:
            encoded = values.encode(node.plain[0], node.path)
            yield Entry(node.path, level, kind_of(encoded), None, None, 0, 0, None, 0, True, encoded, brief(encoded))
        else:
            kind = "group" if told is None else str(told.plain[0])
            yield Entry(node.path, level, kind, None, len(below), node.nbytes, 0, None, 0, True, None, "")
        waiting += [(child, level + 1) for child in reversed(below.values())]
