"""The processes that nothing interrupts: without saving, straight through, and more of them where these two differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from milepost.auditing.causes import Cause, shown
from milepost.auditing.compare import Pair, Parting
from milepost.auditing.points import Point
from milepost.auditing.processes import Bench, Ran
from milepost.auditing.records import Kept, Key, Seen, changed
from milepost.auditing.report import Row, Verdict
from milepost.auditing.spec import Spec
from milepost.auditing.subject import Subject
from milepost.auditing.verdict import parted
from milepost.errors import AuditError
from milepost.ops.redirected import FILE, RUN

LIBRARIES = ("python", "numpy", "torch", "tensorflow", "jax", "keras")


class Uninterrupted:
    """Runs the script without interruption, and knows what is chance.

    Args:
        bench: runs processes.
        subject: the run that is audited.
        say: is told what is being done.
        remark: is told what a person should know.
    """

    def __init__(
        self, bench: Bench, subject: Subject, say: Callable[[str], None], remark: Callable[[str], None]
    ) -> None:
        self._bench, self._subject, self._say, self._remark = bench, subject, say, remark
        self.free: list[Seen] = []
        """What the control saw: the script with saving switched off."""
        self.early = False
        """Whether the control was ended before the script had."""
        self.seen: list[Seen] = []
        """What the script that ran straight through, and saved, saw."""
        self.chance = ""
        """Why uninterrupted processes differ from one another, if they do."""
        self.unseeded: set[str] = set()
        """Libraries whose random state is another one in each process."""
        self._again: list[list[Seen]] = []

    def run_control(self, steps: int | None) -> None:
        """Run the script without saving, to step `steps` or to its end."""
        self._say("running the script without saving")
        spec = Spec("", "", "", steps=steps, seconds=self._bench.seconds)
        ran = self._bench.run("control", spec)
        while self._learn(ran):
            self._say("running it again, with what it reads and does not write")
            self._bench.clear("control", always=True)
            ran = self._bench.run("control", spec)
        for path in sorted(self._bench.needed):
            self._remark(f"the script needs {path}, which is in a run directory: every process reads yours")
        self.free = self._subject.seen_by(ran)
        self._bench.audited = self._subject.name
        self.early = bool(ran.early or ran.code)
        if self.early:
            why = ran.early or "a child of the script reads a checkpoint of its own run"
            self._remark(f"{why}, after {self.free[-1].key}: what follows was not compared")

    def _learn(self, ran: Ran) -> bool:
        """Whether the script asked for something of the person's that it is to see after all: a run that it did not open, or, if
        it failed, other files in one that it did.

        Raises:
            AuditError: it reads its own run, and cannot do without.
        """
        bench = self._bench
        own = bench.inputs & bench.opened.keys()
        if own and ran.failed:  # that was not why
            return False
        if own:
            raise AuditError(
                "the script reads its own run before it opens it, and fails where there is none",
                where=bench.opened[min(own)],
                hint="begin without a run if there is none yet, as on the first start",
            )
        asked = [(kind, one) for kind, one in ran.asked if kind == FILE or one not in bench.opened]
        # A script that failed may not have come to open all that it would: it is the last that it cannot do without.
        asked = asked[-1:] if ran.failed else [(kind, one) for kind, one in asked if kind == RUN]
        bench.inputs |= {one for kind, one in asked if kind == RUN}
        bench.needed |= {one for kind, one in asked if kind == FILE}
        return bool(asked)

    def run_straight(self, points: Sequence[Point], stop: Key | None, steps: int | None) -> Ran:
        """Run it straight through to `stop`, saving at `points`."""
        self._say(f"running it straight through, saving at {len(points)} points")
        keys = [point.key for point in points]
        ran = self._bench.run("straight", Spec("", "", "", keys, saved="yes", end=stop, steps=steps))
        self.seen = self._subject.seen_by(ran)
        return ran

    def compare(self, ran: Ran, *, ends: bool) -> Row:
        """Whether saving, as in `ran`, changes what is computed; and if something does, whether it is not rather chance."""
        pair = Pair.align(self.free, self.seen)
        self.unseeded = pair.unseeded()
        parting = pair.parting(ends=ends and not ran.timed_out, unseeded=self.unseeded)
        name, label = "with saving, beside without", "control"
        if parting is None and ran.timed_out:
            return Row(
                name, label, None, len(pair.other), Verdict.INCOMPLETE, note=f"{ran.cut}, at {self.seen[-1].key}"
            )
        if parting is None:
            return Row(name, label, None, len(pair.other), Verdict.EXACT)
        self._say("they differ: running it once more without saving")
        ran, again = self._control_again("control-again")
        self._again.append(again)
        twins = Pair.align(self.free, again)
        chance = twins.parting(ends=False, unseeded=twins.unseeded())
        kept = self._kept("control", "straight", "control-again")
        if chance is None and len(again) <= parting.after:
            note = (
                f"they differ at {parting.key}; whether another process without saving does too is not known: {ran.cut}"
            )
            return Row(name, label, None, parting.after, Verdict.INCOMPLETE, note=note)
        if chance is None:
            text = "saving itself changes what is computed: something that milepost reads while it saves is drawn from, or moved"
            return parted(name, label, None, parting, [Cause("", text)], kept, Verdict.NOT_EXACT)
        note = f"two uninterrupted runs differ as well, from {chance.key} on ({chance.aspect})"
        self.chance = f"{note}: {self._why(chance)}"
        return replace(parted(name, label, None, parting, [], kept, Verdict.EXACT), note=self.chance)

    def compare_workers(self, workers: int) -> Row:
        """Whether it matters how many workers read the data. Who draws random numbers then is another matter."""
        self._say(f"running it with {workers} workers")
        ran, other = self._control_again("workers", workers=workers)
        pair = Pair.align(self.free, other)
        name = f"with {workers} workers in every loader"
        parting = pair.parting(ends=False, unseeded=LIBRARIES)
        read, not_read = ran.loops("workers"), ran.loops("others")
        if parting is None and not read:
            note = "nothing to compare: no loop of milepost reads a DataLoader"
            return Row(name, "", None, 0, Verdict.LEFT_OUT, note=note)
        if not_read:
            self._remark(f"{' and '.join(not_read)} read no DataLoader: --workers says nothing of what they read with")
        if parting is None and ran.timed_out:
            return Row(name, "", None, len(other), Verdict.INCOMPLETE, note=f"{ran.cut}, at {other[-1].key}")
        if parting is None:
            return Row(name, "", None, len(other), Verdict.EXACT)
        cause = Cause("", "the data depends on the number of workers: do not change it within a run")
        return parted(name, "", None, parting, [cause], self._kept("control", "workers"), Verdict.NOT_EXACT)

    def steady(self, key: Key, path: str) -> bool:
        """Whether a leaf of the script is the same in all uninterrupted processes."""
        processes = ({one.key: one for one in seen} for seen in (self.free, self.seen, *self._again))
        return len({one[key].script.get(path) for one in processes if key in one}) <= 1

    def _control_again(
        self, name: str, *, workers: int | None = None, hash_seed: str | None = None
    ) -> tuple[Ran, list[Seen]]:
        spec = Spec("", "", "", end=self.free[-1].key, workers=workers)
        variables = {"PYTHONHASHSEED": hash_seed} if hash_seed is not None else {}
        ran = self._bench.run(name, spec, variables)
        return ran, self._subject.seen_by(ran)

    def _why(self, chance: Parting) -> str:
        """Why two uninterrupted processes differ."""
        twins = Pair.align(*(self._control_again(f"hash-seed-{number}", hash_seed="0")[1] for number in (1, 2)))
        if twins.parting(ends=False, unseeded=twins.unseeded()) is None:
            return "the order of a set, or hash() of text, decides something: sort it, or set PYTHONHASHSEED"
        unseeded = self._unseeded_generators()
        if unseeded:
            return f"{' and '.join(unseeded)} is neither seeded nor in the state"
        if chance.after == 0:
            return "the script is not seeded (torch.manual_seed, keras.utils.set_random_seed, numpy.random.seed, random.seed)"
        return "non-deterministic kernels, the time, threads, or a generator that is not seeded"

    def _unseeded_generators(self) -> list[str]:
        """The script's own generators that begin differently in each process."""
        first, again = self.free[0], self._again[-1][0]
        apart = set(changed(first.script, again.script))
        kinds = [path for path, kind in first.kinds.items() if kind == "generator"]
        found = [path for path in kinds if any(leaf.startswith(f"{path}/") for leaf in apart)]
        return [f"the random generator {shown(path)}" for path in found]

    def _kept(self, *names: str) -> Kept:
        return Kept(*(self._bench.folder(name) / "log" for name in names))
