"""The processes that are started again: each continues from one point, and is laid beside the one that ran straight through."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import msgspec

from milepost.auditing.causes import Cause
from milepost.auditing.compare import Pair, Parting, suspects
from milepost.auditing.points import Point
from milepost.auditing.processes import Bench, Ran
from milepost.auditing.records import Kept, Key, Seen
from milepost.auditing.report import Row
from milepost.auditing.spec import Spec
from milepost.auditing.subject import Subject
from milepost.auditing.taker import Taken, read_taken
from milepost.auditing.uninterrupted import Uninterrupted
from milepost.auditing.verdict import Place, failed, open_, resumed


class Resumption:
    """Starts the script again from points.

    Args:
        bench: runs processes.
        subject: the run that is audited.
        others: the uninterrupted processes.
        straight: the one that saved at `points`.
        points: all of them, in order.
        stop: the moment up to which to compare; None for the end of the script.
        steps: the step up to which to compare; None likewise.
        kill: continue what a process killed by SIGKILL left, rather than what `straight` had saved.
        say, remark: see `Uninterrupted`.
    """

    def __init__(
        self, bench: Bench, subject: Subject, others: Uninterrupted, straight: Ran, points: Sequence[Point],
        stop: Key | None, steps: int | None, *, kill: bool, say: Callable[[str], None], remark: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._bench, self._subject, self._others, self._straight = bench, subject, others, straight
        self._points = list(points)
        self._taken = read_taken(straight.saved, subject.name)
        self._spec = Spec("", "", "", end=stop, steps=steps)
        self._ends = stop is None and steps is None
        self._kill, self._say, self._remark = kill, say, remark
        self._kinds = {path: kind for one in others.seen for path, kind in one.kinds.items()}

    def rows(self) -> list[Row]:
        """A row for each point; one for several, where the save for one had to wait until another."""
        found: dict[Key, Row] = {}
        for point in self._points:
            taken = next((one for one in self._taken if point.key in one.wanted), None)
            taken = taken or Taken([point.key], point.key, "", self._why_none())
            if taken.wanted[0] == point.key:
                found[point.key] = self._row(taken, len(found) + 1)
        return list(found.values())

    def _why_none(self) -> str:
        if self._straight.timed_out:
            return f"the process that saves did not get there: {self._straight.cut}"
        return "no checkpoint can be taken there, nor at any later moment"

    def _row(self, taken: Taken, number: int) -> Row:
        name = f"resumed-{number}"
        if self._kill and not taken.why_not:
            taken = self._run_and_kill(name, taken) if not self._others.chance else self._cannot_kill(taken)
        labels = [point.label for point in self._points if point.key in taken.wanted and point.label]
        place = Place(taken.at, ", ".join(labels), _waited(taken))
        if taken.why_not:
            return open_(place, taken.why_not)
        if not self._kill:
            self._bench.prepare(name, taken)
        try:
            return self._compare(name, taken, place)
        finally:
            self._bench.clear(name)
            self._bench.clear(f"{name}-again")

    def _compare(self, name: str, taken: Taken, place: Place) -> Row:
        """Start the script again in the scratch called `name`, and compare it."""
        self._say(f"resuming after {place.at}")
        again = self._bench.run(name, self._spec)
        if not any(found for _, found in again.logs):
            return open_(place, again.cut) if again.timed_out else failed(place, again.error())
        other = self._subject.seen_by(again, may_fail=True)
        pair = Pair.align(self._others.seen, other)
        # A killed process is another one than that which ran straight through, and began with other seeds of its own.
        unseeded = self._others.unseeded if self._kill else ()
        parting = pair.parting(ends=self._ends and again.code == 0, unseeded=unseeded)
        if parting is None and not again.failed:
            parting = self._parting_beside(again, unseeded)
        if parting is None and again.failed:
            return failed(place, again.error())
        if parting is None and again.timed_out:
            return open_(place, f"{again.cut}, at {other[-1].key}; nothing differed up to there", len(other))
        found = suspects(pair, self._others.steady, self._kinds, parting.after if parting is not None else None)
        kept = Kept(*(self._bench.folder(one) / "log" for one in ("straight", name)))
        row, remarks = resumed(place, pair, parting, found, kept)
        for text in remarks:
            self._remark(text)
        return row if parting is None else self._or_chance(row, name, taken, other)

    def _parting_beside(self, again: Ran, unseeded: Collection[str]) -> Parting | None:
        """Where another run of the script parts, as far as it goes on from a moment that the straight process saw."""
        straight = self._subject.beside(self._straight)
        for name, seen in self._subject.beside(again).items():
            pair = Pair.align(straight.get(name, []), seen)
            parting = pair.parting(ends=False, unseeded=unseeded) if pair.straight else None
            if parting is not None:
                return parting
        return None

    def _run_and_kill(self, name: str, taken: Taken) -> Taken:
        """Run a process that is killed as soon as it has saved; what it took instead of `taken`."""
        point = taken.wanted[0]
        self._say(f"killing it after {taken.at}")
        spec = msgspec.structs.replace(self._spec, points=[point], saved="yes", kill=True)
        killed = self._bench.run(name, spec)
        log = self._bench.folder(name) / "log"
        for path in log.iterdir():
            path.unlink()
        own = read_taken(killed.saved, self._subject.name)
        if not own:
            return Taken(
                taken.wanted, taken.at, "", f"the process that was to be killed there ended before, with {killed.code}"
            )
        return msgspec.structs.replace(own[0], wanted=taken.wanted)

    def _cannot_kill(self, taken: Taken) -> Taken:
        """Why nothing could be learnt from killing a process of this script."""
        why = f"a killed process cannot be compared with one that goes on: {self._others.chance}; leave --kill out, or mend that"
        return msgspec.structs.replace(taken, why_not=why)

    def _or_chance(self, row: Row, name: str, taken: Taken, other: list[Seen]) -> Row:
        """A resumed process differs. Where uninterrupted ones do as well, another one tells whether it is chance."""
        if not self._others.chance:
            return row
        self._bench.prepare(f"{name}-again", taken)
        again = self._subject.seen_by(self._bench.run(f"{name}-again", self._spec), may_fail=True)
        if Pair.align(other, again).parting(ends=False) is None:
            return row
        return replace(row, causes=(Cause("", f"the script is not deterministic: {self._others.chance}"),))


def _waited(taken: Taken) -> str:
    waited = [str(key) for key in taken.wanted if key != taken.at]
    if not waited or taken.why_not:
        return ""
    return f"the save for {', '.join(waited)} waited until here: no checkpoint can be taken there"
