"""Processes of a script without milepost that are killed after a checkpoint, and those that resume from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from milepost.auditing.causes import Cause
from milepost.auditing.compare import Leaf, Pair, suspects
from milepost.auditing.foreign.causes import Facts, causes, suspected
from milepost.auditing.foreign.compare import align, generator_of, parting, random_apart
from milepost.auditing.foreign.processes import Played
from milepost.auditing.foreign.records import Save, steps_of
from milepost.auditing.foreign.savers import CALLED, PLACE, words_of
from milepost.auditing.foreign.uninterrupted import FIRST, Uninterrupted
from milepost.auditing.points import Point
from milepost.auditing.processes import TIMED_OUT
from milepost.auditing.records import Key, Seen
from milepost.auditing.report import Row, Verdict
from milepost.auditing.verdict import Place, failed, open_, parted

RESUMED = 2
"""The seed of a resumed process, which begins with another random state than the one it continues."""


class Resumption:
    """Kills the script after checkpoints, resumes it, and lays it beside the uninterrupted one.

    Args:
        others: the uninterrupted processes.
        straight: the one to compare with.
        command: what resumes it, with `PLACE` where the checkpoint belongs.
        moments: how many of `straight` were wanted; None for all.
    """

    def __init__(self, others: Uninterrupted, straight: Played, command: Sequence[str], moments: int | None) -> None:
        self._others, self._straight, self._command, self._moments = others, straight, list(command), moments
        self._bench, self._words = others.bench, words_of(others.bench.saver)
        self._ends = moments is None and not others.early(straight)

    def row(self, point: Point, number: int) -> Row:
        """What comes of killing it after the checkpoint at `point`."""
        straight, moments = self._straight, self._moments
        name = f"resumed-{number}"
        self._others.say(f"killing it after the checkpoint at {point.key}")
        killed = self._others.play(name, FIRST, kill=point.key.step)
        if not killed.told("killed"):  # the checkpoint was made after the last step
            self._others.must_work(killed)
        saves = _last_saves(killed.saves)
        place = Place(saves[-1].key if saves else point.key, point.label)
        file = self._bench.checkpoint(killed, saves)
        if file is None and self._others.early(killed):
            return open_(place, "the process that was to be killed there did not get so far before its time was over")
        if file is None:
            called = CALLED[self._bench.saver]
            return open_(place, f"of what {called} wrote there, no file is left when the process is killed")
        self._others.say(f"resuming after {place.at}")
        command = [one.replace(PLACE, str(file)) for one in self._command]
        # One step more than there should be tells that there are too many.
        left = (len(steps_of(straight.seen)) + 1 if moments is None else moments) - place.at.step
        again = self._others.play(name, RESUMED, command=command, moments=max(left, 1))
        for number, rank in enumerate(straight.ranks):
            row = self._compare(place, straight.of_rank(rank), again.of_rank(rank), saves, name)
            if row.verdict is not Verdict.EXACT:
                row = replace(row, name=f"{row.name}, rank {int(rank)}") if number else row
                break
        self._bench.clear(name)
        return row

    def _compare(self, place: Place, straight: Played, again: Played, saves: Sequence[Save], name: str) -> Row:
        """Lay the first processes of both side by side."""
        pair = align(straight.seen, again.seen, place.at.step)
        if not pair.other and again.failed:
            return failed(place, again.error())
        if not pair.other and again.code == TIMED_OUT:
            return open_(place, "the resumed process made no step before its time was over")
        if not pair.other and not steps_of(pair.straight):
            return open_(place, "no step follows the checkpoint, before or after a restart")
        found = parting(pair, ends=self._ends and not again.failed and not self._others.early(again))
        if found is None and again.failed:
            return failed(place, again.error())
        apart = random_apart(pair, found)
        kinds = {path: kind for one in straight.seen for path, kind in one.kinds.items()}
        beside = suspects(pair, self._is_suspect(straight), kinds, found.after if found is not None else None)
        if found is None:
            return self._exact(place, pair, apart, [suspected(one, self._words) for one in beside])
        reads = bool(again.loads()) or bool(again.told("other"))
        began = again.seen[0].key if again.seen else None
        likely = causes(Facts(pair, found, saves, reads, began, apart, beside), self._words)
        if self._others.chance:
            likely = [Cause("", f"the script is not deterministic: {self._others.chance}")]
        kept = self._others.kept("straight", name)
        return parted(place.title, place.label, place.at, found, likely, kept, Verdict.NOT_EXACT)

    def _is_suspect(self, straight: Played) -> Callable[[Key, str], bool]:
        """Whether a variable changes in the course of a process, and is the same in both uninterrupted ones."""
        moving = _moving(straight.seen)
        return lambda key, path: path in moving and self._others.steady(key, path)

    def _exact(self, place: Place, pair: Pair, apart: Sequence[Leaf], beside: Sequence[Cause]) -> Row:
        for cause in beside:
            self._others.remark(f"{cause.text} (nothing else came of it as far as was compared)")
        if apart:
            names = ", ".join(sorted({generator_of(leaf.path).partition("/")[2] for leaf in apart}))
            if not self._ends:
                return open_(
                    place, f"the random state of {names} is not put back, which may matter later", len(pair.other)
                )
            self._others.remark(f"the random state of {names} is not put back, and nothing came of it")
        return Row(place.title, place.label, place.at, len(pair.other), Verdict.EXACT)


def _moving(seen: Sequence[Seen]) -> set[str]:
    """The variables that change in the course of a process."""
    values: dict[str, set[str | None]] = {}
    for one in steps_of(seen):
        for path in one.script:
            values.setdefault(path, set()).add(one.script[path])
    return {path for path, found in values.items() if len(found) > 1}


def _last_saves(saves: Sequence[Save]) -> list[Save]:
    """Those made after the last step."""
    return [one for one in saves if one.key.step == saves[-1].key.step] if saves else []
