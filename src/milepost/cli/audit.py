"""``milepost audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milepost.cli.options import Json
from milepost.cli.table import Cell, Column, Styled, table
from milepost.cli.terminal import Progress, document, paint, say, width
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.auditing.report import Report

_COLOURS = {"exact": "green", "not exact": "red", "incomplete": "yellow", "left out": "yellow"}


def audit(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What starts the training script.")],
    at: Annotated[
        list[int] | None, typer.Option("--at", metavar="STEP", help="Resume from this step; can be given again.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="K", help="Compare so many steps after the last of these; else all.", min=1),
    ] = None,
    every_step: Annotated[bool, typer.Option("--all", help="Resume from every step.")] = False,
    kill: Annotated[
        bool, typer.Option("--kill", help="End the process that saved by SIGKILL, one for each point.")
    ] = False,
    copy_cwd: Annotated[
        bool, typer.Option("--copy-cwd", help="Give every process a copy of the working directory.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Compare with N workers in every DataLoader, too.", min=0),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", help="Compare what a process does within so many seconds.")
    ] = 300.0,
    space: Annotated[
        float | None,
        typer.Option("--space", metavar="GIB", help="Let scratch take so much; else most of what is free.", min=0),
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option("--scratch", metavar="DIR", help="Keep the scratch of all processes in this new folder."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write the answer as Markdown (.md) or HTML (.html) too."),
    ] = None,
    saver: Annotated[
        str | None,
        typer.Option("--saver", metavar="LIBRARY", help="For scripts without milepost: what saves (torch, keras)."),
    ] = None,
    resume_command: Annotated[
        str | None,
        typer.Option("--resume-command", metavar="TEXT", help="With --saver: what resumes from {checkpoint}."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Prove that a training script resumes exactly, or say what it lacks.

    The script is run unchanged in fresh processes: without saving, straight through with a save at some points, and resumed
    from each of them. After every step the state, the batches, all random state and the metrics are compared bit for
    bit. Every process has run directories of its own; yours is neither read nor written. The script runs as often as there
    are points, and two times more: let it make few steps.

    A script that does not use milepost is killed after some of its checkpoints, and resumed, with --saver torch (or keras) and
    --resume-command 'python train.py --resume {checkpoint}'. With --saver keras and no such command it is started again as
    it was, as BackupAndRestore wants it.

    Exit code 0 says exact, 1 not exact, 2 that the command cannot be, 3 that this could not be found out.

    For example:

        milepost audit -- python train.py --epochs 2
        milepost audit --at 100 --steps 20 --kill -- python train.py
        milepost audit --report audit.md -- python train.py --epochs 2

    JSON:

        verdict: exact, not exact or incomplete; of a comparison also left out
        comparisons: [{name, point, at, compared, verdict, where, aspect, expected, found, note,
                       differences: [{path, how_much}], causes: [{path, text}]}]
        at, where: {step, epoch, batch, phase, asker}
        aspect: place, batches, rng, state, buffers, gradients, metrics, objects or restart
        leaves: how many were compared at every moment; unseen: what could not be
        remarks, seconds, command; files: that the script wrote; versions: {milepost}
    """
    from milepost.auditing.audit import audit as run_audit

    if report is not None and report.suffix not in (".md", ".html"):
        raise typer.BadParameter("--report takes a file that ends in .md or .html")
    if report is not None and not report.parent.is_dir():
        raise typer.BadParameter(f"--report: there is no folder {safe(str(report.parent))}")
    if saver is None and resume_command is not None:
        raise typer.BadParameter("--resume-command goes with --saver")
    with Progress() as progress:
        found = run_audit(
            command,
            at=at or (),
            steps=steps,
            kill=kill,
            every_step=every_step,
            workers=workers,
            saver=saver,
            resume_command=resume_command,
            seconds=seconds,
            space=None if space is None else int(space * (1 << 30)),
            copy_cwd=copy_cwd,
            keep=scratch,
            say=lambda text: progress.show(safe(text)),
        )
    if report is not None:
        from milepost.auditing import documents

        report.write_text(documents.markdown(found) if report.suffix == ".md" else documents.html(found), "utf-8")
    if as_json:
        document(found.as_json())
    else:
        _say(found)
        if report is not None:
            say(f"written to {safe(str(report))}")
    return found.exit_code


def _say(found: Report) -> None:
    columns = [
        Column("PROCESS", least=18), Column("POINT", optional=2), Column("MOMENTS", right=True, optional=1), Column("RESULT"),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            safe(row.name),
            row.label,
            str(row.compared),
            Styled(row.result + " *" * bool(row.note), _COLOURS[row.verdict]),
        ]
        for row in found.rows
    ]
    for line in table(columns, rows, width())[0]:
        say(line)
    noted = [row for row in found.rows if row.note]
    for number, row in enumerate(noted):
        say(f"{'' if number else chr(10)}* {safe(row.name)}: {safe(row.note)}")
    for one in found.findings():
        say(f"\n{paint(safe(one.title), 'bold')}")
        for text in one.details():
            say(f"  {safe(text)}")
    for remark in found.remarks:
        say(f"\nnote: {safe(remark)}")
    if found.unseen:
        say("\ncould not be observed:")
        for text in found.unseen[:20]:
            say(f"  {safe(text)}")
    if found.files:
        more = f" and {len(found.files) - 5} more" if len(found.files) > 5 else ""
        say(
            f"\nthe script also wrote {', '.join(map(safe, found.files[:5]))}{more}; --copy-cwd keeps apart what is in "
            "the working directory"
        )
    moments = "moment" if found.moments == 1 else "moments"
    verdict = paint(str(found.verdict).upper(), _COLOURS[found.verdict])
    say(
        f"\n{verdict}  {found.seen} leaves compared bit for bit at {found.moments} {moments} (after steps, at ends of epochs), "
        f"{found.seconds:.0f} s"
    )
