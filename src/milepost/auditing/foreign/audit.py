"""The audit of a script that does not use milepost: which processes are run, and what follows from comparing them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import milepost
from milepost.auditing.foreign.points import points
from milepost.auditing.foreign.processes import Played, ScriptBench
from milepost.auditing.foreign.records import REDIRECTED, steps_of
from milepost.auditing.foreign.resumption import Resumption
from milepost.auditing.foreign.savers import CALLED, resume_command
from milepost.auditing.foreign.uninterrupted import Uninterrupted
from milepost.auditing.processes import Launch, files_in, launch, scratch_folder
from milepost.auditing.report import Report, Row, Verdict
from milepost.auditing.verdict import overall
from milepost.errors import ScriptError


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
        others = Uninterrupted(bench, say)
        try:
            report = _report(others, again, at=sorted(set(at)), steps=steps, every_save=every_save)
        finally:
            others.clear_up()
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


def _report(
    others: Uninterrupted, again: Sequence[str], *, at: Sequence[int], steps: int | None, every_save: bool
) -> Report:
    control = others.run_control()
    if not any(one.key.step for one in control.saves):
        return _nothing_saved(others, control)
    wanted = points(control.saves, len(steps_of(control.seen)), at=at, every=every_save)
    # A moment is before its step: one more, to see what the last step did.
    moments = None if steps is None else max(point.key.step for point in wanted) + steps + 1
    straight = others.run_straight(control, moments)
    resumption = Resumption(others, straight, again, moments)
    rows = [others.compare(control, straight)]
    rows += [resumption.row(point, number) for number, point in enumerate(wanted, 1)]
    unseen = _unseen(others, straight)
    leaves = max((len(one.state) + len(one.made) + len(one.rng) for one in straight.seen), default=0)
    return Report(
        tuple(others.bench.command), overall(rows, unseen), tuple(rows), leaves, unseen, tuple(others.remarks)
    )


def _unseen(others: Uninterrupted, straight: Played) -> tuple[str, ...]:
    """What could not be observed in `straight`."""
    found = [text for log in straight.logs for one in log.seen for text in one.opaque]
    if len([log for log in straight.logs if log.seen]) > len(straight.ranks):
        found.append("other processes that make steps too: the one with the most was compared")
    for one in straight.told("other"):
        if one.startswith(REDIRECTED):
            others.remark(f"{one} saves too: its files are kept in scratch, and not looked into")
        else:
            found.append(f"what {one} saves: its files are not kept apart from one process to the next")
    return tuple(dict.fromkeys(found))


def _nothing_saved(others: Uninterrupted, control: Played) -> Report:
    savers, called = control.told("other"), CALLED[others.bench.saver]
    if savers:
        text = f"what {', '.join(savers)} saved: only checkpoints by {called} are resumed from"
    elif control.saves:
        text = f"a checkpoint: {called} is called before the first step only"
    else:
        text = f"a checkpoint: {called} is never called"
    row = Row("run once, uninterrupted", "control", None, len(control.seen), Verdict.EXACT)
    return Report(tuple(others.bench.command), Verdict.INCOMPLETE, (row,), 0, (text,), tuple(others.remarks))
