"""``milepost prune``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import complete
from milepost.cli.options import Json, RunArgument
from milepost.cli.table import Cell, Column, Styled, table
from milepost.cli.terminal import Progress, document, note, say, width
from milepost.core import words
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.folder.retention import Decision, Keep
    from milepost.folder.run import RunFolder
    from milepost.ops.pruning import Plan


def prune(
    run: RunArgument,
    last: Annotated[int, typer.Option("--last", metavar="N", help="Keep so many of the newest.")] = 3,
    best: Annotated[
        str | None,
        typer.Option(
            "--best",
            metavar="METRIC",
            help="Keep the best by this metric (METRIC:min or METRIC:max where that is not plain); else the run's own.",
            autocompletion=complete.metrics,
        ),
    ] = None,
    every_steps: Annotated[
        int | None, typer.Option("--every-steps", metavar="N", help="Keep those at multiples of N steps.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed, and why; remove nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> int:
    """Remove checkpoints, with a reason for each.

    Never removed: the newest good checkpoint, tagged and pinned ones, those that cannot be read, those that another
    run wrote. A job that is saving into the run is not disturbed: what checkpoints share stays with those that are
    left, and a save that finds nothing to link to writes the bytes.

    For example:

        milepost prune runs/mnist --dry-run
        milepost prune runs/mnist --last 5 --best val_loss --every-steps 1000
        milepost prune runs/mnist --best score:max --yes

    JSON:

        dry_run, freed_bytes, decisions: [{folder, step, keep, reason}],
        removed: [folder], changed: [folder] left alone since a job replaced them meanwhile
    """
    from milepost.ops.pruning import carry_out, plan
    from milepost.ops.refs import open_run

    if as_json and not (dry_run or yes):
        raise typer.BadParameter("--json cannot ask: say --dry-run or --yes")
    opened = open_run(run)
    keep = _keep(opened, last, best, every_steps)
    found = plan(opened, keep)
    if not as_json:
        _say_plan(found)
    removed: list[str] = []
    changed: list[str] = []
    if found.doomed and not dry_run:
        if not yes and not _agreed(opened, len(found.doomed)):
            note("nothing was removed")
            return 0
        with Progress() as progress:

            def on_removed(folder: str) -> None:
                removed.append(folder)
                progress.show(f"removed {safe(folder)}, {len(removed)} of {len(found.doomed)}")

            left = carry_out(opened, found.doomed, lambda one: on_removed(one.folder))
        changed = [one.folder for one in left]
    if as_json:
        document(_as_json(found, dry_run=dry_run, removed=removed, changed=changed))
    elif not dry_run and found.doomed:
        say(f"removed {words.count(len(removed), 'checkpoint')}")
        for folder in changed:
            note(f"{safe(folder)} was left alone: a job has replaced it meanwhile")
    return 0


def _keep(run: RunFolder, last: int, best: str | None, every_steps: int | None) -> Keep:
    from milepost.folder.retention import Keep

    if best is not None:
        metric, _, mode = best.rpartition(":")
        return Keep(last, (metric, mode) if metric and mode in ("min", "max") else best, every_steps)
    by = run.info.best
    return Keep(last, None if by is None else (by.metric, by.mode), every_steps)


def _agreed(run: RunFolder, number: int) -> bool:
    from milepost.errors import ScriptError
    from milepost.ops.listing import life_of
    from milepost.ops.refs import wording

    if not sys.stdin.isatty():
        raise ScriptError("nobody is there to be asked", where=run.where, hint="say --yes, or --dry-run to look only")
    with wording("look at the attempts", run.where):
        life = life_of(run)
    if life.owner is not None:
        note(f"attempt {life.attempts} is running on {safe(life.owner.host)}; removing does not disturb it")
    return typer.confirm(f"Remove {words.count(number, 'checkpoint')}?", err=True)


def _say_plan(found: Plan) -> None:
    columns = [Column(""), Column("CHECKPOINT"), Column("REASON", least=20)]
    lines, _ = table(columns, [_cells(decision) for decision in found.decisions], width())
    if lines:
        say("\n".join(lines))
    doomed = len(found.doomed)
    say(f"{len(found.decisions) - doomed} to keep, {doomed} to remove: frees {words.size(found.freed)}")


def _cells(decision: Decision) -> list[Cell]:
    verdict = "keep" if decision.keep else Styled("remove", "red")
    return [verdict, safe(decision.checkpoint.folder), safe(decision.reason)]


def _as_json(found: Plan, *, dry_run: bool, removed: list[str], changed: list[str]) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "freed_bytes": found.freed,
        "decisions": [
            {
                "folder": decision.checkpoint.folder,
                "step": decision.checkpoint.step,
                "keep": decision.keep,
                "reason": decision.reason,
            }
            for decision in found.decisions
        ],
        "removed": removed,
        "changed": changed,
    }
