"""`milepost.audit`: the processes that are run, one after the other, and the report that comes of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import milepost
from milepost.auditing.call import command_for
from milepost.auditing.files.writes import read_written
from milepost.auditing.foreign.audit import audit_script
from milepost.auditing.points import Point, choose, fitting
from milepost.auditing.processes import Bench, Launch, Stamp, files_in, launch, scratch_folder
from milepost.auditing.report import Report
from milepost.auditing.resumption import Resumption
from milepost.auditing.subject import Subject
from milepost.auditing.uninterrupted import Uninterrupted
from milepost.auditing.verdict import left_out, overall, remarks_beside, suspect_files
from milepost.errors import AuditError, ScriptError

BESIDE = 4
"""Checkpoints that there has to be room for beside those that are put aside: what a run keeps, and what is being written."""


def audit(
    script: Sequence[str] | Callable[[], Any],
    *,
    at: Sequence[int] = (),
    steps: int | None = None,
    kill: bool = False,
    every_step: bool = False,
    workers: int | None = None,
    seconds: float = 300.0,
    space: int | None = None,
    copy_cwd: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    keep: Path | None = None,
    saver: str | None = None,
    resume_command: str | None = None,
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
        seconds: that the first process may take before it is ended; what was seen until then is compared. The others may be five
            times slower, and two minutes.
        space: bytes that the scratch of all processes may take; most of what is free by default. Points that do not fit are left
            out, and the report says so.
        copy_cwd: give every process a copy of the working directory.
        cwd: where to start the script; the current directory by default.
        environment: of the script; that of this process by default.
        keep: a folder, new, for the scratch of all processes; a temporary one by default.
        saver: of a command that does not use milepost, the library that saves its checkpoints: ``"torch"`` or ``"keras"``. It is
            killed after some checkpoints (with `every_step`, after each) and resumed.
        resume_command: of such a command, what resumes it, with ``{checkpoint}`` where the path of the checkpoint belongs; with
            ``"keras"`` it may be left out, for `keras.callbacks.BackupAndRestore`.
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
    if steps is not None and steps < 1:
        raise ScriptError("steps= is how many to compare", expected="at least 1", found=steps)
    if not seconds > 0:
        raise ScriptError("seconds= is how long the first process may take", expected="more than 0", found=seconds)
    variables = _environment(callable(script)) if environment is None else environment
    if saver is not None:
        if workers is not None or space is not None:
            raise ScriptError(
                "with a saver, no workers and no space can be asked for", hint="leave --workers and --space out"
            )
        return audit_script(command, saver=saver, resume=resume_command, at=at, steps=steps, every_save=every_step,
                            seconds=seconds, copy_cwd=copy_cwd, cwd=cwd, environment=variables, keep=keep, say=say,
                            launch=launch)  # fmt: skip
    started = time.monotonic()
    where = Path.cwd() if cwd is None else Path(cwd)
    before = files_in(where)
    with scratch_folder(keep) as scratch:
        bench = Bench(
            command,
            where.resolve(),
            scratch,
            copy_cwd=copy_cwd,
            environment=variables,
            seconds=seconds,
            space=space,
            keep=keep is not None,
            launch=launch,
        )
        try:
            report = _report(bench, at=at, steps=steps, kill=kill, every_step=every_step, workers=workers, say=say)
        finally:
            bench.clear_up()
        files = _files(bench, before, where.resolve(), copy_cwd=copy_cwd)
    return replace(
        suspect_files(report, files),
        files=tuple(path for path in files if os.path.isabs(path) or not copy_cwd),
        seconds=time.monotonic() - started,
        versions={"milepost": milepost.__version__},
    )


def _environment(function: bool) -> dict[str, str]:
    """That of this process. A function is to find the modules that it finds here."""
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} if function else {}
    return {**os.environ, **paths}


def _files(bench: Bench, before: Mapping[str, Stamp], where: Path, *, copy_cwd: bool) -> list[str]:
    """The files that the straight process wrote: those in the working directory relative to it, then the others."""
    changed = files_in(bench.folder("straight") / "cwd" if copy_cwd else where)
    own = str(bench.scratch.resolve())
    here = (
        path
        for path, stamp in changed.items()
        if (path not in before or stamp.size != before[path].size or (stamp != before[path] and not copy_cwd))
        and not str(where / path).startswith(own)
    )
    written = read_written(bench.folder("straight") / "log")
    return [*sorted(here), *sorted(str(path) for path in written if not path.is_relative_to(where))]


def _report(
    bench: Bench,
    *,
    at: Sequence[int],
    steps: int | None,
    kill: bool,
    every_step: bool,
    workers: int | None,
    say: Callable[[str], None],
) -> Report:
    remarks: dict[str, None] = {}
    remark = remarks.setdefault
    subject = Subject(bench.command, remark)
    others = Uninterrupted(bench, subject, say, remark)
    last = max(at) + steps if at and steps is not None else None
    others.run_control(last)
    points = choose(others.free, at, every_step=every_step, ended=not others.early and last is None)
    if steps is not None and last is None:
        last = max(point.key.step for point in points) + steps
    wanted, (points, why) = points, _with_room(bench, points, max(one.size for one in others.free))
    stop = others.free[-1].key if others.early or last is not None else None
    straight = others.run_straight(points, stop, last)
    resumption = Resumption(bench, subject, others, straight, points, stop, last, kill=kill, say=say, remark=remark)
    control = others.compare(straight, ends=stop is None)
    resumed = [
        *resumption.rows(),
        *(left_out(point, why, named=bool(at) or every_step) for point in wanted if point not in points),
    ]
    order = {one.key: number for number, one in enumerate(others.free)}
    rows = [control, *sorted(resumed, key=lambda row: order.get(row.at, len(order)) if row.at else 0)]
    if workers is not None:
        rows.append(others.compare_workers(workers))
    for program, path in bench.started():
        remark(
            f"the script starts {program} with {path}: a program that is no Python finds your run there, not scratch"
        )
    unseen = tuple(dict.fromkeys(text for one in others.seen for text in one.opaque))
    leaves = max((len(one.state) + len(one.rng) for one in others.seen), default=0)
    return Report(
        tuple(bench.command), overall(rows, unseen), tuple(rows), leaves, unseen, remarks_beside(rows, list(remarks))
    )


def _with_room(bench: Bench, points: list[Point], size: int) -> tuple[list[Point], str]:
    """Those of `points` that there is room for with a state of `size` bytes, and why not for all.

    Raises:
        AuditError: there is none for a single one.
    """
    room = bench.space // size - BESIDE if size else len(points)
    if room < 1:
        raise AuditError(
            "there is no room for a checkpoint",
            where=bench.scratch,
            expected=f"{_mib((BESIDE + 1) * size)} for a state of {_mib(size)}",
            found=_mib(bench.space),
            hint="--scratch DIR on a larger disk, or --space if it was given",
        )
    return fitting(
        points, room
    ), f"left out: there is room for {room} of {len(points)} points, with {_mib(size)} of state"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
