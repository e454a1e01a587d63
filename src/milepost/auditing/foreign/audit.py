"""The audit of a script that does not use milepost: which processes are run, and what follows from comparing them."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import milepost
from milepost.auditing.causes import Cause
from milepost.auditing.compare import Leaf, Pair, suspects
from milepost.auditing.foreign.causes import Facts, TorchWords, Words, causes, suspected
from milepost.auditing.foreign.compare import align, generator_of, parting, random_apart
from milepost.auditing.foreign.points import points
from milepost.auditing.foreign.processes import Played, ScriptBench
from milepost.auditing.foreign.records import EARLY, END, REDIRECTED, Save
from milepost.auditing.points import Point
from milepost.auditing.processes import TIMED_OUT, Launch, files_in, launch, scratch_folder
from milepost.auditing.records import Kept, Key, Seen
from milepost.auditing.report import Report, Row, Verdict
from milepost.auditing.verdict import Place, failed, open_, overall, parted
from milepost.errors import AuditError, ScriptError
from milepost.keras.words import SaverWords as KerasWords

SAVERS = ("torch", "keras")
CALLED = {"torch": "torch.save", "keras": "ModelCheckpoint, BackupAndRestore or another way to save a model of Keras"}
WATCHES = {
    "torch": "--saver torch watches the steps of torch.optim optimizers",
    "keras": "--saver keras watches model.fit",
}
PLACE, ITSELF = "{checkpoint}", "{itself}"
FIRST, RESUMED = 1, 2
"""Seeds: a resumed process begins with another random state than the one it continues."""


def resume_command(saver: str, command: Sequence[str], text: str | None) -> list[str]:
    """What starts the script again, as a list with `{checkpoint}` in it. Where the script finds its checkpoint by itself, that is
    `command`, or it was said by `{itself}`.

    Raises:
        ScriptError: there is no such saver, or no such command.
    """
    if saver not in SAVERS:
        raise ScriptError(
            f"there is no saver {saver!r}",
            expected=" or ".join(SAVERS),
            hint="a JAX script keeps its state in values of its own: it can be audited once it uses milepost"
            if saver == "jax"
            else "a script that uses milepost needs no --saver",
        )
    example = "--resume-command 'python train.py --resume {checkpoint}'"
    if text is None and saver == "keras":
        return list(command)  # as with BackupAndRestore
    if text is None:
        raise ScriptError("how the script is resumed has to be said", expected=example)
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise ScriptError("the resume command cannot be read", found=text, hint=str(error)) from error
    if not any(PLACE in one for one in parts) and ITSELF not in parts and parts != list(command):
        raise ScriptError(
            "{checkpoint} is missing in the resume command",
            found=text,
            expected=example,
            hint="if the script finds its checkpoint by itself, give the very command that starts it, or add {itself}",
        )
    return [one for one in parts if one != ITSELF]


def audit_script(
    command: Sequence[str],
    *,
    saver: str,
    resume: str | None,
    at: Sequence[int] = (),
    steps: int | None = None,
    every_save: bool = False,
    seconds: float = 300.0,
    copy_cwd: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    launch: Launch = launch,
) -> Report:
    """Run a training script that does not use milepost several times, killed and resumed, and find out whether it resumes exactly.

    Args:
        command: what starts it.
        saver: the library that saves its checkpoints: ``"torch"``, or ``"keras"``.
        resume: the command that resumes it, with ``{checkpoint}`` where the path of the checkpoint belongs; with ``"keras"`` it
            may be left out: `command` is then run again, as it is with `keras.callbacks.BackupAndRestore`.
        at: kill it after the first checkpoint at or after these steps (of optimizers); by default after the first, one in the
            middle of an epoch, one at the end of an epoch, and the last.
        steps: how many steps after the last of these to compare; None for all.
        every_save: kill it after every checkpoint.
        seconds: that a process may take before it is ended; what was seen until then is compared.
        copy_cwd: give every process that is not a resumed one a copy of the working directory.
        cwd: where to start the script; the current directory by default.
        environment: of the script; that of this process by default.
        keep: a folder, new, for the scratch of all processes; a temporary one by default.
        say: is told what is being done.
        launch: starts a process; see `milepost.auditing.processes.Launch`.

    Raises:
        AuditError: the script fails by itself, or does nothing that can be observed.
        ScriptError: `saver` or `resume` is wrong, or there is no checkpoint to resume from.
    """
    again = resume_command(saver, command, resume)
    if not command:
        raise ScriptError("there is no command to audit", hint="milepost audit --saver torch ... -- python train.py")
    started = time.monotonic()
    where = (Path.cwd() if cwd is None else Path(cwd)).resolve()
    before = files_in(where)
    with scratch_folder(keep) as scratch:
        bench = ScriptBench(
            command, where, scratch.resolve(), copy_cwd=copy_cwd, environment=os.environ if environment is None else environment,
            seconds=seconds, space=None, keep=keep is not None, launch=launch,
        )  # fmt: skip
        bench.saver = saver
        one = _Audit(bench, again, at=at, steps=steps, every_save=every_save, say=say)
        try:
            report = one.report()
        finally:
            one.clear_up()
        own = str(scratch.resolve())
        files = [
            path
            for path, stamp in sorted(files_in(where).items())
            if stamp != before.get(path) and not str(where / path).startswith(own)
        ]
    return replace(
        report,
        files=() if copy_cwd else tuple(files),
        seconds=time.monotonic() - started,
        versions={"milepost": milepost.__version__},
    )


class _Audit:
    def __init__(
        self,
        bench: ScriptBench,
        again: Sequence[str],
        *,
        at: Sequence[int],
        steps: int | None,
        every_save: bool,
        say: Callable[[str], None],
    ) -> None:
        self._bench, self._again, self._say = bench, list(again), say
        self._words: Words = TorchWords() if bench.saver == "torch" else KerasWords()
        self._at, self._steps, self._every_save = sorted(set(at)), steps, every_save
        self._environment: dict[str, str] = {}
        self._remarks: list[str] = []
        self._unseen: list[str] = []
        self._made: list[str] = []
        self._twins: list[dict[Key, Seen]] = []
        """What both uninterrupted processes saw at each moment."""
        self._chance = ""
        """Why uninterrupted processes differ from one another, if they do."""

    def report(self) -> Report:
        self._say("running the script, to see what it saves")
        control = self._first()
        saves = [one for one in control.saves if one.key.step]
        if not saves:
            return self._nothing_saved(control)
        wanted = points(control.saves, len(_steps(control.seen)), at=self._at, every=self._every_save)
        moments = None
        if self._steps is not None:
            # A moment is before its step: one more, to see what the last step did.
            moments = max(point.key.step for point in wanted) + self._steps + 1
        self._say("running it once more, uninterrupted")
        straight = self._play("straight", FIRST, moments=moments)
        self._must_work(straight)
        self._bench.drop_files("straight")
        self._twins = [{one.key: one for one in played.seen} for played in (control, straight)]
        ends = moments is None and not self._early(straight)
        rows = [self._compare_control(control, straight)]
        rows += [self._resume(point, straight, number, moments, ends) for number, point in enumerate(wanted, 1)]
        self._unseen += [text for log in straight.logs for one in log.seen for text in one.opaque]
        if len([log for log in straight.logs if log.seen]) > len(straight.ranks):
            self._unseen.append("other processes that make steps too: the one with the most was compared")
        for one in straight.told("other"):
            if one.startswith(REDIRECTED):
                self._remark(f"{one} saves too: its files are kept in scratch, and not looked into")
            else:
                self._unseen.append(f"what {one} saves: its files are not kept apart from one process to the next")
        unseen = tuple(dict.fromkeys(self._unseen))
        leaves = max((len(one.state) + len(one.made) + len(one.rng) for one in straight.seen), default=0)
        return Report(
            tuple(self._bench.command), overall(rows, unseen), tuple(rows), leaves, unseen, tuple(self._remarks)
        )

    def clear_up(self) -> None:
        """Remove the folders that the script made and left empty, since what it saved there is in scratch."""
        for path in sorted(set(self._made), key=len, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(path)

    # -- processes ---------------------------------------------------------------------------------------------------------------

    def _play(
        self, name: str, seed: int, *, command: Sequence[str] | None = None, moments: int | None = None,
        kill: int | None = None,
    ) -> Played:  # fmt: skip
        played = self._bench.play(
            name, seed, command=command, moments=moments, kill=kill, environment=self._environment
        )
        self._made += played.told("made")
        return played

    def _first(self) -> Played:
        """The first process. Where it goes on from a checkpoint of the person's, another that cannot see those."""
        control = self._play("control", FIRST)
        own = self._bench.reads_own(control)
        self._bench.learn(control)
        if own:
            which = os.path.relpath(own[0], self._bench.cwd)
            self._bench.hide(own)
            self._say("running it again, without the checkpoints that are there")
            hidden = self._play("control-hidden", FIRST)
            if not hidden.failed:
                self._remark(f"the script goes on from {which} if that is there: it was hidden")
            else:
                self._remark(f"the script needs {which}: every process began with a copy")
                self._bench.give(own)
                hidden = self._play("control-given", FIRST)
            control = hidden
            self._bench.learn(control)
        self._must_work(control)
        self._bench.drop_files(control.name)
        if not control.seen:
            raise AuditError(
                _why_nothing(control, self._bench.saver),
                where=" ".join(self._bench.command),
                found=control.error() or "no output",
                hint=WATCHES[self._bench.saver],
            )
        return control

    def _must_work(self, played: Played) -> None:
        if played.failed:
            raise AuditError(
                f"the script fails by itself ({played.name}), with exit code {played.code}",
                where=" ".join(self._bench.command),
                found=played.error() or "no output",
                hint="run it by hand first; --scratch DIR keeps what every process printed",
            )

    def _early(self, played: Played) -> bool:
        folder = self._bench.folder(played.name)
        return played.code == TIMED_OUT or any(folder.glob(f"log-*/{EARLY}"))

    def _remark(self, text: str) -> None:
        if text not in self._remarks:
            self._remarks.append(text)

    # -- comparing ---------------------------------------------------------------------------------------------------------------

    def _nothing_saved(self, control: Played) -> Report:
        others, saver = control.told("other"), CALLED[self._bench.saver]
        if others:
            text = f"what {', '.join(others)} saved: only checkpoints by {saver} are resumed from"
        elif control.saves:
            text = f"a checkpoint: {saver} is called before the first step only"
        else:
            text = f"a checkpoint: {saver} is never called"
        row = Row("run once, uninterrupted", "control", None, len(control.seen), Verdict.EXACT)
        return Report(tuple(self._bench.command), Verdict.INCOMPLETE, (row,), 0, (text,), tuple(self._remarks))

    def _compare_control(self, control: Played, straight: Played) -> Row:
        """Whether two uninterrupted processes are the same, and if not, why."""
        pair = align(control.seen, straight.seen, 0)
        found = parting(pair, ends=False)
        name, label = "run twice, uninterrupted", "control"
        if found is None:
            return Row(name, label, None, len(straight.seen), Verdict.EXACT)
        self._say("they differ: finding out whether hashes matter")
        self._environment = {"PYTHONHASHSEED": "0"}
        twins = [self._play(f"hash-seed-{number}", FIRST) for number in (1, 2)]
        self._environment = {}
        if parting(align(twins[0].seen, twins[1].seen, 0), ends=False) is None:
            why = "the order of a set, or hash() of text, decides something: sort it, or set PYTHONHASHSEED"
        else:
            why = "non-deterministic kernels, the time, threads, or a generator that is not seeded (numpy's default_rng())"
        self._chance = f"two uninterrupted runs differ as well, from {found.key} on ({found.aspect}): {why}"
        row = parted(name, label, None, found, [], self._kept("control", "straight"), Verdict.EXACT)
        return replace(row, note=self._chance)

    def _resume(self, point: Point, straight: Played, number: int, moments: int | None, ends: bool) -> Row:
        name = f"resumed-{number}"
        self._say(f"killing it after the checkpoint at {point.key}")
        killed = self._play(name, FIRST, kill=point.key.step)
        if not killed.told("killed"):  # the checkpoint was made after the last step
            self._must_work(killed)
        saves = _last_saves(killed.saves)
        place = Place(saves[-1].key if saves else point.key, point.label)
        file = self._bench.checkpoint(killed, saves)
        if file is None and self._early(killed):
            return open_(place, "the process that was to be killed there did not get so far before its time was over")
        if file is None:
            called = CALLED[self._bench.saver]
            return open_(place, f"of what {called} wrote there, no file is left when the process is killed")
        self._say(f"resuming after {place.at}")
        command = [one.replace(PLACE, str(file)) for one in self._again]
        # One step more than there should be tells that there are too many.
        left = (len(_steps(straight.seen)) + 1 if moments is None else moments) - place.at.step
        again = self._play(name, RESUMED, command=command, moments=max(left, 1))
        for number, rank in enumerate(straight.ranks):
            row = self._compare(place, straight.of_rank(rank), again.of_rank(rank), saves, name, ends)
            if row.verdict is not Verdict.EXACT:
                row = replace(row, name=f"{row.name}, rank {int(rank)}") if number else row
                break
        self._bench.clear(name)
        return row

    def _compare(
        self, place: Place, straight: Played, again: Played, saves: Sequence[Save], name: str, ends: bool
    ) -> Row:
        """Lay the first processes of both side by side."""
        pair = align(straight.seen, again.seen, place.at.step)
        if not pair.other and again.failed:
            return failed(place, again.error())
        if not pair.other and again.code == TIMED_OUT:
            return open_(place, "the resumed process made no step before its time was over")
        if not pair.other and not _steps(pair.straight):
            return open_(place, "no step follows the checkpoint, before or after a restart")
        found = parting(pair, ends=ends and not again.failed and not self._early(again))
        if found is None and again.failed:
            return failed(place, again.error())
        apart = random_apart(pair, found)
        kinds = {path: kind for one in straight.seen for path, kind in one.kinds.items()}
        beside = suspects(pair, self._is_suspect(straight), kinds, found.after if found is not None else None)
        if found is None:
            return self._exact(place, pair, apart, [suspected(one, self._words) for one in beside], ends)
        reads = bool(again.loads()) or bool(again.told("other"))
        began = again.seen[0].key if again.seen else None
        likely = causes(Facts(pair, found, saves, reads, began, apart, beside), self._words)
        if self._chance:
            likely = [Cause("", f"the script is not deterministic: {self._chance}")]
        kept = self._kept("straight", name)
        return parted(place.title, place.label, place.at, found, likely, kept, Verdict.NOT_EXACT)

    def _is_suspect(self, straight: Played) -> Callable[[Key, str], bool]:
        """Whether a variable changes in the course of a process, and is the same in both uninterrupted ones."""
        moving = _moving(straight.seen)
        return lambda key, path: (
            path in moving and len({one[key].script.get(path) for one in self._twins if key in one}) <= 1
        )

    def _exact(self, place: Place, pair: Pair, apart: Sequence[Leaf], beside: Sequence[Cause], ends: bool) -> Row:
        for cause in beside:
            self._remark(f"{cause.text} (nothing else came of it as far as was compared)")
        if apart:
            names = ", ".join(sorted({generator_of(leaf.path).partition("/")[2] for leaf in apart}))
            if not ends:
                return open_(
                    place, f"the random state of {names} is not put back, which may matter later", len(pair.other)
                )
            self._remark(f"the random state of {names} is not put back, and nothing came of it")
        return Row(place.title, place.label, place.at, len(pair.other), Verdict.EXACT)

    def _kept(self, *names: str) -> Kept:
        return Kept(*(folder for name in names for folder in sorted(self._bench.folder(name).glob("log-*"))))


def _moving(seen: Sequence[Seen]) -> set[str]:
    """The variables that change in the course of a process."""
    values: dict[str, set[str | None]] = {}
    for one in _steps(seen):
        for path in one.script:
            values.setdefault(path, set()).add(one.script[path])
    return {path for path, found in values.items() if len(found) > 1}


def _steps(seen: Sequence[Seen]) -> list[Seen]:
    return [one for one in seen if one.key.phase != END]


def _last_saves(saves: Sequence[Save]) -> list[Save]:
    """Those made after the last step."""
    return [one for one in saves if one.key.step == saves[-1].key.step] if saves else []


def _why_nothing(played: Played, saver: str) -> str:
    if not played.started:
        return "no Python process of the command could be watched (those started with -I, -E or -S cannot be)"
    if saver == "keras":
        return "no step of model.fit was seen" if "keras" in played.frameworks else "the script imports no Keras 3"
    if "torch" not in played.frameworks:
        if "jax" in played.frameworks:
            return "a JAX script keeps its state in values of its own, and can be audited only once it uses milepost"
        others = ", ".join(sorted(played.frameworks))
        return f"the script imports no torch{f', but {others}' if others else ''}"
    return "no step of a torch.optim optimizer was seen: it is compiled, or training is done outside of Python"
