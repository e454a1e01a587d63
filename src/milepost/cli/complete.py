"""What the shell may complete: places, the checkpoints of a run after ``@``, and paths within a checkpoint.

Completion never fails: where nothing can be read, nothing is offered. Names that the shell or the terminal would take
for more than text are not offered either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

import typer

from milepost.errors import MilepostError

_OFFERED = re.compile(r"[\w./@=~+%,:-]+")
_MOST = 500


def places(incomplete: str) -> list[str]:
    """Folders, down to the run directories."""
    return _deeper(_inside, incomplete)


def refs(incomplete: str) -> list[str]:
    """Folders, and after ``@`` what names a checkpoint of the run before it."""
    place, at, begun = incomplete.rpartition("@")
    if at and "/" not in begun:
        return [which for which in _whiches(place) if which.startswith(incomplete)]
    found = places(incomplete)
    # With a single answer the shell would go on to the next word, where an @ may be meant to follow.
    return found + _whiches(found[0]) if len(found) == 1 else found


def sources(incomplete: str) -> list[str]:
    """What `refs` offers, or where that is nothing or folders alone, files too: of any name, as a format is told by content."""
    found = refs(incomplete)
    if all(one.endswith("/") for one in found):
        return _deeper(lambda begun: _inside(begun, files=True), incomplete)
    return found


def tags(ctx: typer.Context, incomplete: str) -> list[str]:
    """Tags of the run that was named before."""
    return [name for name in _quietly(lambda: _tags_of(_named(ctx))) if name.startswith(incomplete)]


def paths(ctx: typer.Context, incomplete: str) -> list[str]:
    """Paths of tensors and values in the checkpoint that was named before, level by level."""
    ref = _named(ctx)
    return _deeper(lambda begun: sorted(set(_quietly(lambda: _paths_of(ref, begun)))), incomplete)[:_MOST]


def metrics(ctx: typer.Context, incomplete: str) -> list[str]:
    """Metrics of the run that was named before."""
    return [name for name in _quietly(lambda: _metrics_of(_named(ctx))) if name.startswith(incomplete)]


def _named(ctx: typer.Context) -> str:
    """The REF or RUN that stands before what is being completed."""
    # While the value of an option is missing, arguments are not sorted yet.
    given = [ctx.params.get(name) for name in ("ref", "run", "refs", "b")] + [ctx.args]
    value = next(filter(None, given), "")
    return str(value[0]) if isinstance(value, list | tuple) else str(value)


def _quietly(ask: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return [name for name in ask() if _OFFERED.fullmatch(name)]
    except (MilepostError, OSError):
        return []  # the command itself will say what is wrong


def _deeper(level: Callable[[str], list[str]], incomplete: str) -> list[str]:
    """The answers of one level, or of the next where there is one that has more below it (the shell would put a space
    after it)."""
    found = level(incomplete)
    while len(found) == 1 and found[0].endswith("/") and (below := level(found[0])):
        found = below
    return found


def _inside(incomplete: str, *, files: bool = False) -> list[str]:
    """Folders that begin so, and files if asked for."""
    from milepost.folder import names
    from milepost.ops.refs import is_run

    above, begun = os.path.split(incomplete)
    # In a run directory only the checkpoints are worth a look.
    within = is_run(above or ".")

    def inside() -> Iterable[str]:
        with os.scandir(above or ".") as entries:
            for entry in entries:
                checkpoint = names.parse_step(entry.name) is not None
                wanted = (checkpoint or not within) and (begun or not entry.name.startswith("."))
                if wanted and (entry.is_dir() or (files and entry.is_file())):
                    yield entry.name

    found = [os.path.join(above, name) for name in sorted(_quietly(inside)) if name.startswith(begun)]
    whole = [
        is_run(path) or names.parse_step(os.path.basename(path)) is not None or not os.path.isdir(path)
        for path in found
    ]
    return [path if one else path + "/" for path, one in zip(found, whole, strict=True)]


def _whiches(place: str) -> list[str]:
    """All REFs of run `place`."""

    def inside() -> Iterable[str]:
        from milepost.folder.tags import read_tags
        from milepost.ops.refs import open_run

        run = open_run(place)
        steps = sorted({one.step for one in run.checkpoints()}, reverse=True)
        best = ["best"] if run.info.best is not None else []
        return ["latest", "good", *best, *sorted(read_tags(run)), *(f"step={step}" for step in steps)]

    return [f"{place}@{which}" for which in _quietly(inside)]


def _tags_of(ref: str) -> Iterable[str]:
    from milepost.folder.tags import read_tags
    from milepost.ops.refs import Ref, open_run

    return sorted(read_tags(open_run(Ref.parse(ref).place)))


def _metrics_of(place: str) -> Iterable[str]:
    from milepost.ops.refs import open_run

    found = [one.summary.metrics for one in open_run(place).checkpoints() if one.summary is not None]
    return sorted({name for metrics in found for name in metrics})


def _paths_of(ref: str, incomplete: str) -> Iterable[str]:
    from milepost.core import tree
    from milepost.ops.refs import open as open_source
    from milepost.ops.refs import own

    source = open_source(ref)
    checkpoint = own(source)
    if checkpoint is None:
        known: Iterable[str] = (*source.specs, *source.plain)
    else:
        items = checkpoint.manifest.items.items()
        known = (node.path for item, structure in items for node in tree.walk(structure, item))
    for path in known:
        if path.startswith(incomplete):
            following = path.find("/", len(incomplete))
            yield path if following < 0 else path[: following + 1]
