"""``milepost ls`` of checkpoints that milepost did not write."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from milepost.cli.table import Cell, Column, Styled, cut, say_table
from milepost.cli.terminal import Progress, note, paint, say
from milepost.core import words
from milepost.core.manifest import plain_metrics
from milepost.core.text import safe
from milepost.errors import MilepostError

if TYPE_CHECKING:
    from milepost.ops.sequence import Member

Result = TypeVar("Result")
OnBlock = Callable[[str, int], None]
_ARTICLE = re.compile(r"^an? ")


class Other(NamedTuple):
    """A checkpoint of another format, in a word what it holds, and what it is the first to have."""

    member: Member
    holds: str
    symptoms: tuple[str, ...]


def list_others(place: str, *, values: bool) -> list[tuple[str, list[Other]]]:
    """The checkpoints at `place`, with the place; empty, and said, where there are none."""
    from milepost.ops.sequence import members

    found = members(place)
    if not found:
        note(f"no runs below {safe(place)}, and no checkpoints of other formats in it")
        return []
    others = watched(lambda on_block: _looked_at(found, values, on_block))
    problem = others[0].member.problem
    if found == [place] and problem is not None:
        raise problem
    return [(place, others)]


def watched(act: Callable[[OnBlock], Result]) -> Result:
    """What `act` returns, which tells the path and the bytes of each block it reads."""
    done = 0
    with Progress() as progress:

        def on_block(path: str, nbytes: int) -> None:
            nonlocal done
            done += nbytes
            progress.show(f"{words.size(done)}: {safe(path)}", often=True)

        return act(on_block)


def _looked_at(places: list[str], values: bool, on_block: OnBlock) -> list[Other]:
    from milepost.ops.holding import holding
    from milepost.ops.sequence import describe
    from milepost.ops.symptoms import Watch

    watch = Watch(on_block)
    found = []
    for place in places:
        member = describe(place)
        symptoms: tuple[str, ...] = ()
        if values and member.source is not None:
            try:
                symptoms = watch.look(member.source)
            except MilepostError as error:
                member = member._replace(problem=error)
        found.append(Other(member, holding(member.source).what if member.source is not None else "", symptoms))
    return found


def say_others(place: str, found: list[Other]) -> None:
    """The table of a folder."""
    nbytes = sum(one.member.nbytes for one in found)
    if len(found) > 1:
        say(f"{paint(safe(place), 'bold')}: {words.count(len(found), 'checkpoint')}, {words.size(nbytes)} on disk")
    metrics = list(dict.fromkeys(name for one in found for name in one.member.metrics))
    columns = [
        Column("CHECKPOINT", least=13), Column("STEP", right=True), Column("SAVED", optional=3),
        Column("AGE", right=True, optional=1),
        *(Column(cut(safe(name), 24), right=True, optional=4) for name in metrics),
        Column("TENSORS", right=True), Column("SIZE", right=True), Column("HOLDS"), Column("FORMAT", least=10, optional=2),
        Column("MARKS", least=8),
    ]  # fmt: skip
    say_table(columns, [_cells(one, metrics) for one in found])


def _cells(one: Other, metrics: list[str]) -> list[Cell]:
    member, source = one.member, one.member.source
    step = "" if member.step is None else f"{member.step:,}"
    saved, ago = words.moment(member.time) if member.time else ("", "")
    mark: Cell = Styled(", ".join(map(safe, one.symptoms)), "red") if one.symptoms else ""
    if member.problem is not None:
        mark = Styled(f"cannot be read: {safe(member.problem.message)}", "red")
    tensors = "" if source is None else f"{len(source):,}"
    shown = "" if source is None else safe(_ARTICLE.sub("", str(source.metadata.get("format", ""))))
    values = [words.number(member.metrics[name]) if name in member.metrics else "" for name in metrics]
    return [safe(member.name), step, saved, ago, *values, tensors, words.size(member.nbytes), one.holds, shown, mark]


def others_json(place: str, found: list[Other]) -> dict[str, Any]:
    """The same for ``--json``."""
    from milepost.cli.failures import as_json

    return {
        "place": place,
        "checkpoints": [
            {
                "where": one.member.where,
                "format": None if one.member.source is None else one.member.source.metadata.get("format"),
                "step": one.member.step,
                "time": one.member.time or None,
                "metrics": plain_metrics(dict(one.member.metrics)),
                "bytes": one.member.nbytes,
                "tensors": None if one.member.source is None else len(one.member.source),
                "holds": one.holds or None,
                "symptoms": list(one.symptoms),
                "problem": None if one.member.problem is None else as_json(one.member.problem),
            }
            for one in found
        ],
    }
