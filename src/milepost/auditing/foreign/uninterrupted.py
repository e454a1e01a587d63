"""The processes of a script without milepost that are not interrupted: the first, which tells what is saved, and another that has
to be the same."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from milepost.auditing.foreign.compare import align, parting
from milepost.auditing.foreign.processes import Played, ScriptBench
from milepost.auditing.foreign.records import EARLY
from milepost.auditing.foreign.savers import WATCHES, why_nothing
from milepost.auditing.processes import TIMED_OUT
from milepost.auditing.records import Kept, Key, Seen
from milepost.auditing.report import Row, Verdict
from milepost.auditing.verdict import parted
from milepost.errors import AuditError

FIRST = 1
"""The seed of all libraries at first, in processes that begin."""


class Uninterrupted:
    """Runs the script without interruption, and knows what is chance.

    Args:
        bench: runs processes.
        say: is told what is being done.
    """

    def __init__(self, bench: ScriptBench, say: Callable[[str], None]) -> None:
        self.bench, self.say = bench, say
        self.remarks: list[str] = []
        """What a person should know."""
        self.chance = ""
        """Why uninterrupted processes differ from one another, if they do."""
        self._environment: dict[str, str] = {}
        self._made: list[str] = []
        self._twins: list[dict[Key, Seen]] = []
        """What both processes saw at each moment."""

    def run_control(self) -> Played:
        """The first process. Where it goes on from a checkpoint of the person's, another that cannot see those."""
        self.say("running the script, to see what it saves")
        control = self.play("control", FIRST)
        own = self.bench.reads_own(control)
        self.bench.learn(control)
        if own:
            which = os.path.relpath(own[0], self.bench.cwd)
            self.bench.hide(own)
            self.say("running it again, without the checkpoints that are there")
            hidden = self.play("control-hidden", FIRST)
            if not hidden.failed:
                self.remark(f"the script goes on from {which} if that is there: it was hidden")
            else:
                self.remark(f"the script needs {which}: every process began with a copy")
                self.bench.give(own)
                hidden = self.play("control-given", FIRST)
            control = hidden
            self.bench.learn(control)
        self.must_work(control)
        self.bench.drop_files(control.name)
        if not control.seen:
            raise AuditError(
                why_nothing(control, self.bench.saver),
                where=" ".join(self.bench.command),
                found=control.error() or "no output",
                hint=WATCHES[self.bench.saver],
            )
        return control

    def run_straight(self, control: Played, moments: int | None) -> Played:
        """Run it once more, to the end of so many moments."""
        self.say("running it once more, uninterrupted")
        straight = self.play("straight", FIRST, moments=moments)
        self.must_work(straight)
        self.bench.drop_files("straight")
        self._twins = [{one.key: one for one in played.seen} for played in (control, straight)]
        return straight

    def compare(self, control: Played, straight: Played) -> Row:
        """Whether two uninterrupted processes are the same, and if not, why."""
        pair = align(control.seen, straight.seen, 0)
        found = parting(pair, ends=False)
        name, label = "run twice, uninterrupted", "control"
        if found is None:
            return Row(name, label, None, len(straight.seen), Verdict.EXACT)
        self.say("they differ: finding out whether hashes matter")
        self._environment = {"PYTHONHASHSEED": "0"}
        twins = [self.play(f"hash-seed-{number}", FIRST) for number in (1, 2)]
        self._environment = {}
        if parting(align(twins[0].seen, twins[1].seen, 0), ends=False) is None:
            why = "the order of a set, or hash() of text, decides something: sort it, or set PYTHONHASHSEED"
        else:
            why = "non-deterministic kernels, the time, threads, or a generator that is not seeded (numpy's default_rng())"
        self.chance = f"two uninterrupted runs differ as well, from {found.key} on ({found.aspect}): {why}"
        row = parted(name, label, None, found, [], self.kept("control", "straight"), Verdict.EXACT)
        return replace(row, note=self.chance)

    def steady(self, key: Key, path: str) -> bool:
        """Whether a variable is the same in both processes."""
        return len({one[key].script.get(path) for one in self._twins if key in one}) <= 1

    def play(
        self, name: str, seed: int, *, command: Sequence[str] | None = None, moments: int | None = None,
        kill: int | None = None,
    ) -> Played:  # fmt: skip
        """See `ScriptBench.play`."""
        played = self.bench.play(name, seed, command=command, moments=moments, kill=kill, environment=self._environment)
        self._made += played.told("made")
        return played

    def must_work(self, played: Played) -> None:
        """Raises:
        AuditError: the script has failed.
        """
        if played.failed:
            raise AuditError(
                f"the script fails by itself ({played.name}), with exit code {played.code}",
                where=" ".join(self.bench.command),
                found=played.error() or "no output",
                hint="run it by hand first; --scratch DIR keeps what every process printed",
            )

    def early(self, played: Played) -> bool:
        """Whether a process was ended before the script had."""
        folder = self.bench.folder(played.name)
        return played.code == TIMED_OUT or any(folder.glob(f"log-*/{EARLY}"))

    def remark(self, text: str) -> None:
        """A person should know `text`."""
        if text not in self.remarks:
            self.remarks.append(text)

    def kept(self, *names: str) -> Kept:
        """What was kept of what these processes saw."""
        return Kept(*(folder for name in names for folder in sorted(self.bench.folder(name).glob("log-*"))))

    def clear_up(self) -> None:
        """Remove the folders that the script made and left empty, since what it saved there is in scratch."""
        for path in sorted(set(self._made), key=len, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(path)
