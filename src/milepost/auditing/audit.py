"""The audit itself: which processes are run, and what follows from comparing them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import milepost
from milepost.auditing.call import command_for
from milepost.auditing.causes import UNKNOWN, Cause, causes
from milepost.auditing.compare import Leaf, Pair, Parting, suspects
from milepost.auditing.observer import EARLY, Spec, point_name
from milepost.auditing.processes import TIMED_OUT, Bench, Launch, Ran, files_in, launch, scratch_folder
from milepost.auditing.records import Kept, Key, Seen, how_much
from milepost.auditing.report import Difference, Report, Row, Verdict
from milepost.errors import AuditError, ScriptError
from milepost.training.progress import Phase

LIBRARIES = ("python", "numpy", "torch", "tensorflow", "jax", "keras")
MOST_DIFFERENCES = 12
MOST_POINTS = 200
"""Points of one audit with ``every_step``."""


class Point(NamedTuple):
    """A moment to save at and resume from, and what it stands for."""

    key: Key
    label: str


def audit(
    script: Sequence[str] | Callable[[], Any],
    *,
    at: Sequence[int] = (),
    steps: int | None = None,
    kill: bool = False,
    every_step: bool = False,
    workers: int | None = None,
    seconds: float = 300.0,
    copy_cwd: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    launch: Launch = launch,
) -> Report:
    """Run a training script several times in fresh processes, and find out whether it resumes exactly.

    Args:
        script: the command that starts it, as in ``["python", "train.py", "--epochs", "2"]``, or a function at the top of a file
            that trains. It must use `milepost.Checkpointer`; what directory it names does not matter.
        at: steps to resume from; by default the first, one in the middle of an epoch, the end of an epoch's batches, the end of
            an epoch, and the last.
        steps: how many steps after the last of these to compare; None for all.
        kill: end the process that saves by SIGKILL, one for each point, rather than take what an uninterrupted one had saved.
        every_step: resume from every step.
        workers: compare with a process, too, in which every `DataLoader` has so many workers.
        seconds: that a process may take before it is ended; what was seen until then is compared.
        copy_cwd: give every process a copy of the working directory.
        cwd: where to start the script; the current directory by default.
        environment: of the script; that of this process by default.
        keep: a folder, new, for the scratch of all processes; a temporary one by default.
        say: is told what is being done.
        launch: starts a process; see `milepost.auditing.processes.Launch`.

    Raises:
        AuditError: the script fails by itself, or does nothing that can be observed.
        ScriptError: there is no such step to resume from.

    Example:
        >>> report = milepost.audit(["python", "train.py", "--epochs", "2"], at=[10])
        >>> print(report)
        EXACT: python train.py --epochs 2
    """
    command = command_for(script) if callable(script) else list(script)
    if not command:
        raise ScriptError("there is no command to audit", hint="milepost audit -- python train.py")
    started = time.monotonic()
    where = Path.cwd() if cwd is None else Path(cwd)
    before = files_in(where)
    with scratch_folder(keep) as scratch:
        variables = _environment(callable(script)) if environment is None else environment
        bench = Bench(
            command,
            where.resolve(),
            scratch,
            copy_cwd=copy_cwd,
            environment=variables,
            seconds=seconds,
            launch=launch,
        )
        report = _Audit(bench, at=at, steps=steps, kill=kill, every_step=every_step, workers=workers, say=say).report()
        changed = files_in(bench.folder("straight") / "cwd" if copy_cwd else where)
        own = str(scratch.resolve())
        files = sorted(
            path
            for path, stamp in changed.items()
            if (path not in before or stamp.size != before[path].size or (stamp != before[path] and not copy_cwd))
            and not str(where.resolve() / path).startswith(own)
        )
    return replace(
        report,
        rows=tuple(_suspect_files(row, files) for row in report.rows),
        files=() if copy_cwd else tuple(files),
        seconds=time.monotonic() - started,
        versions={"milepost": milepost.__version__},
    )


def _environment(function: bool) -> dict[str, str]:
    """That of this process. A function is to find the modules that it finds here."""
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} if function else {}
    return {**os.environ, **paths}


def _suspect_files(row: Row, files: Sequence[str]) -> Row:
    """Where nothing else explains a difference, the files that the script writes may."""
    if not files or all(cause.text != UNKNOWN for cause in row.causes):
        return row
    names = ", ".join(files[:5])
    text = f"the script writes {names}: if it reads that file too, its contents are not in the state and not taken back"
    return replace(row, causes=(Cause(files[0], text),))


class _Audit:
    def __init__(
        self,
        bench: Bench,
        *,
        at: Sequence[int],
        steps: int | None,
        kill: bool,
        every_step: bool,
        workers: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._bench, self._say = bench, say
        self._at, self._steps, self._kill, self._every_step = sorted(set(at)), steps, kill, every_step
        self._workers = workers
        self._run = ""
        self._remarks: list[str] = []
        self._straight: Ran | None = None
        self._saved: list[str] = []
        self._chance_found = ""
        """Why uninterrupted processes differ from one another, if they do."""
        self._unseeded: set[str] = set()
        self._others: list[list[Seen]] = []
        """What uninterrupted processes besides the straight one saw."""

    def report(self) -> Report:
        end = self._at[-1] + self._steps if self._at and self._steps is not None else None
        self._say("running the script without saving")
        control = self._bench.run("control", Spec("", "", "", steps=end, seconds=self._bench.seconds))
        free = self._only(control)
        early = control.code == TIMED_OUT or (self._bench.folder("control") / "log" / EARLY).exists()
        whole = end is None and not early
        points = self._points(free)
        if self._steps is not None and end is None:
            end = max(point.key.step for point in points) + self._steps
        stop = None if whole and end is None else free[-1].key
        self._say(f"running it straight through, saving at {len(points)} points")
        keys = [point.key for point in points]
        straight = self._bench.run("straight", Spec("", "", "", keys, saved="yes", end=stop, steps=end))
        seen = self._only(straight)
        self._straight, self._saved = straight, [point_name(key) for key in keys]
        self._others += [free, seen]
        rows = [
            self._compare_control(free, seen, ends=stop is None and end is None),
            *(self._resume(point, seen, number, stop, end) for number, point in enumerate(points, 1)),
        ]
        if self._workers is not None:
            rows.append(self._compare_workers(free, self._workers))
        unseen = tuple(dict.fromkeys(text for one in seen for text in one.opaque))
        return Report(tuple(self._bench.command), self._verdict(rows, unseen), tuple(rows), _leaves(seen), unseen,
                      self._remarks_beside(rows))  # fmt: skip

    # -- what was seen -----------------------------------------------------------------------------------------------------

    def _only(self, ran: Ran, *, may_fail: bool = False) -> list[Seen]:
        """What the process saw of the run that is audited."""
        if ran.failed and not may_fail:
            raise AuditError(
                f"the script fails by itself ({ran.name}), with exit code {ran.code}",
                where=" ".join(self._bench.command),
                found=ran.tail() or "no output",
                hint="run it by hand first; --scratch DIR keeps what every process printed",
            )
        if not self._run:
            longest = max(ran.logs, key=lambda log: len(log[1]), default=None)
            if longest is None or not longest[1]:
                raise AuditError(
                    "the script made no run that can be observed",
                    where=" ".join(self._bench.command),
                    found=ran.tail() or "no output",
                    expected="milepost.Checkpointer(...) and run.step(...)",
                    hint="milepost audit looks at scripts that use milepost.Checkpointer",
                )
            self._run = os.path.basename(longest[0].scratch)
        runs = {os.path.basename(head.scratch) for head, _ in ran.logs}
        if len(runs) > 1:
            self._remark(f"the script opens {len(runs)} runs; {longest_name(ran, self._run)} was audited")
        found = [seen for head, seen in ran.logs if os.path.basename(head.scratch) == self._run and seen]
        if not found:
            raise AuditError(f"the run is not opened any more ({ran.name})", where=self._run, found=ran.tail())
        if len(found) > 1:
            self._remark(f"{len(found)} processes open the run; the one that does most was compared")
        return max(found, key=len)

    def _remarks_beside(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """The remarks that say more than the causes do."""
        told = {cause.text.removeprefix("a metric accumulator: ") for row in rows for cause in row.causes}
        return tuple(text for text in self._remarks if not any(text.startswith(one) for one in told))

    def _remark(self, text: str) -> None:
        if text not in self._remarks:
            self._remarks.append(text)

    # -- where to resume ---------------------------------------------------------------------------------------------------

    def _points(self, seen: Sequence[Seen]) -> list[Point]:
        """The points to save at, by what an uninterrupted process went through."""
        keys = [one.key for one in seen if one.key.session == 0]
        stepped = [key for number, key in enumerate(keys) if number and key.step > keys[number - 1].step]
        if not stepped:
            raise AuditError("the script makes no step that can be observed", expected="run.step(...) in its loop")
        if self._at:
            by_step = {key.step: key for key in reversed(stepped)}
            missing = [step for step in self._at if step not in by_step]
            if missing:
                raise ScriptError(
                    f"there is no step {missing[0]} to resume from",
                    found=f"steps {stepped[0].step} to {stepped[-1].step}",
                    hint="--seconds gives the script more time" if len(seen) > 1 else None,
                )
            return [Point(by_step[step], "") for step in self._at]
        if self._every_step:
            if len(stepped) > MOST_POINTS:
                raise ScriptError(
                    f"{len(stepped)} steps are too many to resume from each",
                    expected=f"at most {MOST_POINTS}",
                    hint="let the script make fewer steps, or name some with --at",
                )
            return [Point(key, "") for key in stepped]
        inside = [key for key in stepped if key.phase == Phase.IN_EPOCH]
        last_epoch = [key for key in inside if key.epoch == inside[len(inside) // 2].epoch] if inside else []
        wanted = {
            "first step": stepped[0],
            "mid-epoch": last_epoch[len(last_epoch) // 2] if last_epoch else None,
            "batches done": _middle([key for key in keys if key.phase == Phase.BATCHES_DONE]),
            "epoch end": _middle([key for key in keys if key.phase == Phase.EPOCH_ENDED]),
            "last step": stepped[-1],
        }
        order = {key: number for number, key in enumerate(keys)}
        found: dict[Key, str] = {}
        for label, key in wanted.items():
            if key is not None:
                found[key] = f"{found[key]}, {label}" if key in found else label
        return [Point(key, found[key]) for key in sorted(found, key=order.__getitem__)]

    # -- comparing -----------------------------------------------------------------------------------------------------------

    def _kept(self, *names: str) -> Kept:
        return Kept(*(self._bench.folder(name) / "log" for name in names))

    def _compare_control(self, free: list[Seen], seen: list[Seen], *, ends: bool) -> Row:
        """Whether saving changes what is computed; and if something does, whether it is not rather chance."""
        pair = Pair.align(free, seen)
        self._unseeded = pair.unseeded()
        parting = pair.parting(ends=ends, unseeded=self._unseeded)
        name, label = "with saving, beside without", "control"
        if parting is None:
            return Row(name, label, None, len(pair.other), Verdict.EXACT)
        self._say("they differ: running it once more without saving")
        again = self._only(self._bench.run("control-again", Spec("", "", "", end=free[-1].key)))
        self._others.append(again)
        twins = Pair.align(free, again)
        chance = twins.parting(ends=False, unseeded=twins.unseeded())
        kept = self._kept("control", "straight", "control-again")
        if chance is None:
            text = "saving itself changes what is computed: something that milepost reads while it saves is drawn from, or moved"
            return self._parted(name, label, None, pair, parting, [Cause("", text)], kept, Verdict.NOT_EXACT)
        note = f"two uninterrupted runs differ as well, from {chance.key} on ({chance.aspect})"
        cause = self._chance(free, chance)
        self._chance_found = f"{note}: {cause}"
        self._remark(self._chance_found)
        row = self._parted(name, label, None, pair, parting, [], kept, Verdict.EXACT)
        return replace(row, note=self._chance_found)

    def _compare_workers(self, free: list[Seen], workers: int) -> Row:
        """Whether it matters how many workers read the data. Who draws random numbers then is another matter."""
        self._say(f"running it with {workers} workers")
        other = self._only(self._bench.run("workers", Spec("", "", "", end=free[-1].key, workers=workers)))
        pair = Pair.align(free, other)
        name = f"with {workers} workers in every loader"
        parting = pair.parting(ends=False, unseeded=LIBRARIES)
        if parting is None:
            return Row(name, "", None, len(other), Verdict.EXACT)
        cause = Cause("", "the data depends on the number of workers: do not change it within a run")
        return self._parted(name, "", None, pair, parting, [cause], self._kept("control", "workers"), Verdict.NOT_EXACT)

    def _chance(self, free: list[Seen], chance: Parting) -> str:
        """Why two uninterrupted processes differ."""
        fixed = {"PYTHONHASHSEED": "0"}
        runs = [
            self._only(self._bench.run(f"hash-seed-{number}", Spec("", "", "", end=free[-1].key), fixed))
            for number in (1, 2)
        ]
        twins = Pair.align(*runs)
        if twins.parting(ends=False, unseeded=twins.unseeded()) is None:
            return "the order of a set, or hash() of text, decides something: sort it, or set PYTHONHASHSEED"
        if chance.after == 0:
            return "the script is not seeded (torch.manual_seed, numpy.random.seed, random.seed)"
        return "non-deterministic kernels, the time, threads, or a generator that is not seeded"

    def _resume(self, point: Point, seen: list[Seen], number: int, stop: Key | None, end: int | None) -> Row:
        name = f"resumed-{number}"
        title = f"resumed after {point.key}"
        if self._kill:
            self._say(f"killing it after {point.key}")
            killed = self._bench.run(name, Spec("", "", "", [point.key], end=stop, steps=end, kill=True))
            if killed.code != -9:
                raise AuditError(f"the process that was to be killed ended with {killed.code}", found=killed.tail())
            for path in (self._bench.folder(name) / "log").iterdir():
                path.unlink()
        elif not self._prepare(name, point):
            return Row(title, point.label, point.key, 0, Verdict.EXACT, note="no checkpoint can be taken there")
        self._say(f"resuming after {point.key}")
        again = self._bench.run(name, Spec("", "", "", end=stop, steps=end))
        if again.failed and not any(found for _, found in again.logs):
            return self._failed(title, point, again)
        other = self._only(again, may_fail=True)
        pair = Pair.align(seen, other)
        ends = stop is None and end is None and not again.failed
        # A killed process is another one than that which ran straight through, and began with other seeds of its own.
        parting = pair.parting(ends=ends, unseeded=self._unseeded if self._kill else ())
        kept = self._kept("straight", name)
        found = suspects(pair, self._steady, _kinds(seen), parting.after if parting is not None else None)
        if again.failed and parting is None:
            return self._failed(title, point, again)
        if parting is None:
            lost = [one for one in found if one.kind and one.kind not in ("loader", "sampler", "dataset", "state")]
            for cause in causes(None, [one for one in found if one not in lost]):
                self._remark(f"{cause.text} (nothing else came of it as far as was compared)")
            if lost:
                left = causes(None, lost)
                differences = _differences([leaf for one in lost for leaf in one.leaves], kept)
                first = other[lost[0].first].key
                return Row(title, point.label, point.key, len(other), Verdict.NOT_EXACT, first, "objects",
                           differences, causes=tuple(left))  # fmt: skip
            return Row(title, point.label, point.key, len(other), Verdict.EXACT)
        likely = causes(parting, found)
        row = self._parted(title, point.label, point.key, pair, parting, likely, kept, Verdict.NOT_EXACT)
        return self._or_chance(row, name, point, other, Spec("", "", "", end=stop, steps=end))

    def _prepare(self, name: str, point: Point) -> bool:
        """Make scratch for a process that resumes at `point`; False if no checkpoint was taken there."""
        assert self._straight is not None
        before = self._saved[: self._saved.index(point_name(point.key)) + 1]
        there = [one for one in before if (self._straight.saved / self._run / one).is_dir()]
        if point_name(point.key) not in there:
            return False
        self._bench.prepare(name, self._run, self._straight, there)
        return True

    def _or_chance(self, row: Row, name: str, point: Point, other: list[Seen], spec: Spec) -> Row:
        """A resumed process differs. Where uninterrupted ones do as well, another one tells whether it is chance."""
        if not self._chance_found or not self._prepare(f"{name}-again", point):
            return row
        again = self._only(self._bench.run(f"{name}-again", spec), may_fail=True)
        if Pair.align(other, again).parting(ends=False) is None:
            return row
        return replace(row, causes=(Cause("", f"the script is not deterministic: {self._chance_found}"),))

    def _steady(self, key: Key, path: str) -> bool:
        """Whether a leaf of the script is the same in all uninterrupted processes."""
        values = {one[key].script.get(path) for one in self._by_key() if key in one}
        return len(values) <= 1

    def _by_key(self) -> list[dict[Key, Seen]]:
        return [{one.key: one for one in seen} for seen in self._others]

    def _failed(self, title: str, point: Point, ran: Ran) -> Row:
        cause = Cause("restart", f"the script fails when it is started again: {ran.error()}")
        return Row(title, point.label, point.key, 0, Verdict.NOT_EXACT, point.key, "place", causes=(cause,))

    def _parted(
        self, name: str, label: str, at: Key | None, pair: Pair, parting: Parting, likely: Sequence[Cause], kept: Kept,
        verdict: Verdict,
    ) -> Row:  # fmt: skip
        differences = _differences(parting.leaves, kept)
        return Row(name, label, at, parting.after, verdict, parting.key, parting.aspect, differences, parting.expected,
                   parting.found, tuple(likely))  # fmt: skip

    def _verdict(self, rows: Sequence[Row], unseen: Sequence[str]) -> Verdict:
        if any(row.verdict is Verdict.NOT_EXACT for row in rows):
            return Verdict.NOT_EXACT
        compared = any(row.at is not None and row.compared > 1 for row in rows)
        return Verdict.INCOMPLETE if unseen or not compared else Verdict.EXACT


def _differences(leaves: Sequence[Leaf], kept: Kept) -> tuple[Difference, ...]:
    return tuple(Difference(leaf.path, how_much(kept, leaf.before, leaf.now)) for leaf in leaves[:MOST_DIFFERENCES])


def _leaves(seen: Sequence[Seen]) -> int:
    return max((len(one.state) + len(one.rng) for one in seen), default=0)


def _kinds(seen: Sequence[Seen]) -> dict[str, str]:
    return {path: kind for one in seen for path, kind in one.kinds.items()}


def _middle(keys: Sequence[Key]) -> Key | None:
    """The middle one, and of two the earlier; the last has nothing after it."""
    return keys[(len(keys) - 1) // 2] if keys else None


def longest_name(ran: Ran, run: str) -> str:
    """The directory of the run called `run` in scratch."""
    return next(head.run for head, _ in ran.logs if os.path.basename(head.scratch) == run)
