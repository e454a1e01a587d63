"""The processes that are started again: each continues from one point, and is laid beside the one that ran straight through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from milepost.auditing.causes import Cause
from milepost.auditing.compare import Pair, suspects
from milepost.auditing.observer import Spec, point_name
from milepost.auditing.points import Point
from milepost.auditing.processes import Bench, Ran
from milepost.auditing.records import Kept, Key, Seen
from milepost.auditing.report import Row, Verdict
from milepost.auditing.subject import Subject
from milepost.auditing.uninterrupted import Uninterrupted
from milepost.auditing.verdict import failed, resumed
from milepost.errors import AuditError


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
        self._saved = [point_name(point.key) for point in points]
        self._spec = Spec("", "", "", end=stop, steps=steps)
        self._ends = stop is None and steps is None
        self._kill, self._say, self._remark = kill, say, remark
        self._kinds = {path: kind for one in others.seen for path, kind in one.kinds.items()}

    def compare(self, point: Point, number: int) -> Row:
        """Start the script again from `point`, and compare it."""
        name, title = f"resumed-{number}", f"resumed after {point.key}"
        if self._kill:
            self._run_and_kill(name, point)
        elif not self._prepare(name, point):
            return Row(title, point.label, point.key, 0, Verdict.EXACT, note="no checkpoint can be taken there")
        self._say(f"resuming after {point.key}")
        again = self._bench.run(name, self._spec)
        if again.failed and not any(found for _, found in again.logs):
            return failed(title, point, again.error())
        other = self._subject.seen_by(again, may_fail=True)
        pair = Pair.align(self._others.seen, other)
        # A killed process is another one than that which ran straight through, and began with other seeds of its own.
        unseeded = self._others.unseeded if self._kill else ()
        parting = pair.parting(ends=self._ends and not again.failed, unseeded=unseeded)
        if again.failed and parting is None:
            return failed(title, point, again.error())
        found = suspects(pair, self._others.steady, self._kinds, parting.after if parting is not None else None)
        kept = Kept(*(self._bench.folder(one) / "log" for one in ("straight", name)))
        row, remarks = resumed(title, point, pair, parting, found, kept)
        for text in remarks:
            self._remark(text)
        return row if parting is None else self._or_chance(row, name, point, other)

    def _run_and_kill(self, name: str, point: Point) -> None:
        self._say(f"killing it after {point.key}")
        spec = Spec("", "", "", [point.key], end=self._spec.end, steps=self._spec.steps, kill=True)
        killed = self._bench.run(name, spec)
        if killed.code != -9:
            raise AuditError(f"the process that was to be killed ended with {killed.code}", found=killed.tail())
        for path in (self._bench.folder(name) / "log").iterdir():
            path.unlink()

    def _prepare(self, name: str, point: Point) -> bool:
        """Make scratch for a process that resumes at `point`; False if no checkpoint was taken there."""
        before = self._saved[: self._saved.index(point_name(point.key)) + 1]
        there = [one for one in before if (self._straight.saved / self._subject.name / one).is_dir()]
        if point_name(point.key) not in there:
            return False
        self._bench.prepare(name, self._subject.name, self._straight, there)
        return True

    def _or_chance(self, row: Row, name: str, point: Point, other: list[Seen]) -> Row:
        """A resumed process differs. Where uninterrupted ones do as well, another one tells whether it is chance."""
        if not self._others.chance or not self._prepare(f"{name}-again", point):
            return row
        again = self._subject.seen_by(self._bench.run(f"{name}-again", self._spec), may_fail=True)
        if Pair.align(other, again).parting(ends=False) is None:
            return row
        return replace(row, causes=(Cause("", f"the script is not deterministic: {self._others.chance}"),))
