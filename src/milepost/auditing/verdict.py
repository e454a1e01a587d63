"""From two processes that were laid side by side to a row of the report, and from all rows to the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from milepost.auditing.causes import UNKNOWN, Cause, causes
from milepost.auditing.compare import Leaf, Pair, Parting, Suspect
from milepost.auditing.evidence import BUILTIN_ITERATOR, SETTING
from milepost.auditing.points import Point
from milepost.auditing.records import Kept, Key, how_much
from milepost.auditing.report import RESTART, Difference, Report, Row, Verdict
from milepost.keras.words import is_fit

MOST_DIFFERENCES = 12
_NEVER_STATE = ("loader", "sampler", "dataset", "iterator", "state", "layer", BUILTIN_ITERATOR, SETTING)
"""Kinds of objects that may be otherwise after a restart, as long as nothing comes of it."""


def overall(rows: Sequence[Row], unseen: Sequence[str]) -> Verdict:
    """The answer: exact only if something was compared after a restart, and nothing is left open."""
    verdicts = {row.verdict for row in rows}
    if Verdict.NOT_EXACT in verdicts:
        return Verdict.NOT_EXACT
    compared = any(row.at is not None and row.compared > 1 for row in rows)
    return Verdict.INCOMPLETE if unseen or not compared or Verdict.INCOMPLETE in verdicts else Verdict.EXACT


def parted(
    name: str, label: str, at: Key | None, parting: Parting, likely: Sequence[Cause], kept: Kept, verdict: Verdict
) -> Row:
    """The row of two processes that part."""
    differences = _differences(parting.leaves, kept)
    if parting.aspect == "batches":
        differences = tuple(replace(one, path=f"batch/{one.path}".removesuffix("/.")) for one in differences)
    return Row(name, label, at, parting.after, verdict, parting.key, parting.aspect, differences, parting.expected,
               parting.found, tuple(likely))  # fmt: skip


class Place(NamedTuple):
    """Where a process was started again: the moment, what it stands for, and what a person should know of it."""

    at: Key
    label: str
    note: str = ""

    @property
    def title(self) -> str:
        """The name of its row."""
        return f"resumed after {self.at}"


def resumed(
    place: Place, pair: Pair, parting: Parting | None, found: Sequence[Suspect], kept: Kept
) -> tuple[Row, list[str]]:
    """The row of a resumed process beside the straight one, and remarks about what is otherwise but mattered to nothing."""
    title, label, at, note = place.title, place.label, place.at, place.note
    fit = bool(pair.other) and is_fit(pair.other[0].state)
    if parting is not None:
        likely = causes(parting, found, at_once=parting.key == at, fit=fit)
        row = parted(title, label, at, parting, likely, kept, Verdict.NOT_EXACT)
        return replace(row, note=note), []
    lost = [one for one in found if one.kind and one.kind not in _NEVER_STATE]
    harmless = causes(None, [one for one in found if one not in lost], fit=fit)
    remarks = [f"{cause.text} (nothing else came of it as far as was compared)" for cause in harmless]
    compared = len(pair.other)
    if not lost:
        return Row(title, label, at, compared, Verdict.EXACT, note=note), remarks
    differences = _differences([leaf for one in lost for leaf in one.leaves], kept)
    first = pair.other[lost[0].first].key
    row = Row(title, label, at, compared, Verdict.NOT_EXACT, first, "objects", differences,
              causes=tuple(causes(None, lost, fit=fit)), note=note)  # fmt: skip
    return row, remarks


def failed(place: Place, error: str) -> Row:
    """The row of a process that does not survive being started again."""
    cause = Cause("restart", f"the script fails when it is started again: {error}")
    return Row(place.title, place.label, place.at, 0, Verdict.NOT_EXACT, place.at, RESTART, causes=(cause,))


def open_(place: Place, why: str, compared: int = 0) -> Row:
    """The row of a point for which the question stays open."""
    return Row(place.title, place.label, place.at, compared, Verdict.INCOMPLETE, note=why)


def left_out(point: Point, why: str, *, named: bool) -> Row:
    """The row of a point that there was no room for; `named`: the person had asked for it."""
    verdict = Verdict.INCOMPLETE if named else Verdict.LEFT_OUT
    return Row(f"resumed after {point.key}", point.label, point.key, 0, verdict, note=why)


def remarks_beside(rows: Sequence[Row], remarks: Sequence[str]) -> tuple[str, ...]:
    """The remarks that say more than the causes do."""
    told = {cause.text.removeprefix("a metric accumulator: ") for row in rows for cause in row.causes}
    return tuple(text for text in remarks if not any(text.startswith(one) for one in told))


def suspect_files(report: Report, files: Sequence[str]) -> Report:
    """Where nothing else explains a difference, the files that the script writes may."""
    if not files:
        return report
    names = ", ".join(files[:5])
    text = f"the script writes {names}: if it reads that file too, its contents are not in the state and not taken back"
    cause = Cause(files[0], text)
    rows = (
        replace(row, causes=(cause,)) if any(one.text == UNKNOWN for one in row.causes) else row for row in report.rows
    )
    return replace(report, rows=tuple(rows))


def _differences(leaves: Sequence[Leaf], kept: Kept) -> tuple[Difference, ...]:
    """How far random states are apart means nothing."""
    return tuple(
        Difference(leaf.path, None if leaf.path.startswith("rng/") else how_much(kept, leaf.before, leaf.now))
        for leaf in leaves[:MOST_DIFFERENCES]
    )
