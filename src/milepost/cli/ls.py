"""``milepost ls``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import complete
from milepost.cli.options import Json
from milepost.cli.others import Other, list_others, others_json, say_others, watched
from milepost.cli.table import Cell, Column, Styled, cut, say_table
from milepost.cli.terminal import document, note, paint, say
from milepost.core import words
from milepost.core.text import safe
from milepost.errors import MilepostError

if TYPE_CHECKING:
    from milepost.ops.listing import Life, Listing, Row

_STATES = {"running": "green", "died": "yellow", "failed": "yellow"}
_BRANCHES = {"abandoned": "dim", "superseded": "dim", "foreign": "dim", "unreadable": "red"}


def ls(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PLACE...]",
            help="Run directories, folders to look below, or checkpoints of other formats and folders of them.",
            autocompletion=complete.places,
        ),
    ] = None,
    values: Annotated[
        bool,
        typer.Option(
            "--check-values", help="Read the values too, for the first NaN, infinity or explosion of weights."
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """List the runs below a folder, or the checkpoints of a run.

    A run is told by its newest step, its checkpoints, the bytes they take on disk (what several share counts once)
    and how its newest attempt is doing. Of a checkpoint SIZE is what it holds and NEW what it does not share with
    earlier ones. The first checkpoint with a NaN or an infinity in what is trained or in a metric is marked, and the
    first with a loss ten times its least before; with --check-values also the first with weights ten times what they
    were. Where there is no run, checkpoints of other formats are listed.

    For example:

        milepost ls                    what is in and below the current folder
        milepost ls runs/mnist         the checkpoints of one run
        milepost ls runs/mnist --check-values
        milepost ls runs --json | jq '.runs[] | {place, step}'

    JSON:

        runs: [{place, run, created, best_by: {metric, mode}, step, count, bytes_on_disk,
                attempts, state, owner: {host, pid, ...}, heartbeat_seconds, on_node, problem,
                checkpoints: [{folder, step, attempt, epoch, batch, phase, time, metrics,
                               metrics_left_out, tensors, bytes, new_bytes, good, why_not_good,
                               branch, latest, best, tags, symptoms, problem}]}]
        checkpoints is null for runs that were found below a folder
        on_node: {host, path, step} of what is newer and on the disk of a node alone, else null
        branch: current, abandoned, superseded, foreign (of another run) or unreadable
        state: running, complete, stopped, closed, failed, died or new
        others: [{place, checkpoints: [{where, format, step, time, metrics, bytes, tensors, holds,
                                        symptoms, problem}]}]
    """
    from milepost.ops.refs import is_checkpoint, is_run, runs_below

    detailed: list[tuple[str, Listing]] = []
    summed_up: list[tuple[str, Listing | MilepostError]] = []
    others: list[tuple[str, list[Other]]] = []
    for place in map(os.path.normpath, places or ["."]):
        if is_run(place) or is_checkpoint(place):
            detailed.append((place, _listing(place, values=values)))  # which says what is wrong with a checkpoint
            continue
        folder = os.path.isdir(place)
        found = runs_below(place, on_unreadable=lambda error: note(f"skipped: {_one_line(error)}")) if folder else []
        summed_up += [(path, _listing_or_problem(path)) for path in found]
        if not found:
            others += list_others(place, values=values)
    if as_json:
        runs = [_run_json(place, found, detailed=True) for place, found in detailed]
        runs += [_run_json(place, found, detailed=False) for place, found in summed_up]
        document({"runs": runs, "others": [others_json(place, found) for place, found in others]})
        return 0
    for number, (place, listing) in enumerate(detailed):
        if number:
            say()
        _say_checkpoints(place, listing)
    if detailed and summed_up:
        say()
    _say_runs(summed_up)
    for number, (place, members) in enumerate(others):
        if number or detailed or summed_up:
            say()
        say_others(place, members)
    return 0


def _listing(place: str, *, values: bool = False) -> Listing:
    from milepost.ops.listing import check_values, list_run
    from milepost.ops.refs import open_run

    found = list_run(open_run(place))
    return watched(lambda on_block: check_values(found, on_block)) if values else found


def _listing_or_problem(place: str) -> Listing | MilepostError:
    try:
        return _listing(place)
    except MilepostError as error:
        return error  # one bad run must not hide the others


def _say_runs(runs: list[tuple[str, Listing | MilepostError]]) -> None:
    columns = [
        Column("RUN", least=12), Column("STEP", right=True), Column("CHECKPOINTS", right=True),
        Column("ON DISK", right=True), Column("ATTEMPTS", right=True), Column("STATE", least=10),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for place, found in runs:
        name = safe(place)
        if isinstance(found, MilepostError):
            rows.append([name, "", "", "", "", Styled(f"cannot be read: {safe(found.message)}", "red")])
            continue
        step = "" if found.step is None else f"{found.step:,}"
        life = Styled(_life(found.life), _STATES.get(found.life.state, ""))
        rows.append([name, step, f"{len(found.rows):,}", words.size(found.nbytes), str(found.life.attempts), life])
    say_table(columns, rows)


def _say_checkpoints(place: str, listing: Listing) -> None:
    life = listing.life
    head = f"{words.count(len(listing.rows), 'checkpoint')}, {words.size(listing.nbytes)} on disk"
    head += f"; {words.count(life.attempts, 'attempt')}, {_life(life)}"
    say(f"{paint(safe(place), 'bold')}: {head}")
    metrics: dict[str, None] = {}
    for row in listing.rows:
        if row.listed.summary is not None:
            metrics |= dict.fromkeys(row.listed.summary.metrics)
    columns = [
        Column("CHECKPOINT", least=13), Column("EPOCH", right=True, optional=2), Column("BATCH", right=True, optional=2),
        Column("SAVED", optional=4), Column("AGE", right=True),
        *(Column(cut(safe(name), 24), right=True, optional=1) for name in metrics),
        Column("SIZE", right=True), Column("NEW", right=True, optional=3),
        Column("STATE", least=10), Column("MARKS", least=15),
    ]  # fmt: skip
    say_table(columns, [_cells(row, list(metrics)) for row in listing.rows])
    if listing.on_node is not None:
        node = listing.on_node
        say(words.on_node(node.step, node.host, node.path))
    for problem in listing.problems:
        note(f"warning: {_one_line(problem)}")


def _cells(row: Row, metrics: list[str]) -> list[Cell]:
    summary = row.listed.summary
    if summary is None:
        state = Styled(f"unreadable: {safe(row.listed.problem or '')}", "red")
        return [row.listed.folder, "", "", "", "", *("" for _ in metrics), "", "", state, ""]
    marks = [mark for mark, holds in (("latest", row.latest), ("best", row.best)) if holds]
    marks += map(safe, row.tags)
    marks += map(safe, row.symptoms)
    if row.branch != "current":
        marks.append(row.branch)
    good = "good" if summary.good else Styled(f"not good: {safe(summary.why_not_good or '')}", "red")
    values = [summary.metric(name) for name in metrics]
    return [
        Styled(row.listed.folder, _BRANCHES.get(row.branch, "")),
        str(summary.epoch),
        str(summary.batch),
        *words.moment(summary.time),
        *("" if value is None else words.number(value) for value in values),
        words.size(summary.bytes),
        words.size(summary.new_bytes),
        good,
        Styled(", ".join(marks), "red") if row.symptoms else ", ".join(marks),
    ]


def _life(life: Life) -> str:
    if life.owner is None:
        return safe(life.state)
    heard = f", heard of {words.duration(life.heartbeat or 0)} ago"
    return f"running: process {life.owner.pid} on {safe(life.owner.host)}{heard}"


def _one_line(error: MilepostError) -> str:
    return safe(f"{error.message} ({error.where})" if error.where else error.message)


def _run_json(place: str, found: Listing | MilepostError, *, detailed: bool) -> dict[str, Any]:
    import msgspec

    from milepost.cli.failures import as_json

    if isinstance(found, MilepostError):
        keys = ["run", "created", "best_by", "step", "count", "bytes_on_disk", "attempts", "state", "owner"]
        unknown = dict.fromkeys([*keys, "heartbeat_seconds", "on_node"])
        return {"place": place, **unknown, "problem": as_json(found), "checkpoints": None}
    info, life = found.run.info, found.life
    return {
        "place": place,
        "run": info.run,
        "created": info.created,
        "best_by": msgspec.to_builtins(info.best),
        "step": found.step,
        "count": len(found.rows),
        "bytes_on_disk": found.nbytes,
        "attempts": life.attempts,
        "state": life.state,
        "owner": msgspec.to_builtins(life.owner),
        "heartbeat_seconds": life.heartbeat,
        "on_node": msgspec.to_builtins(found.on_node),
        "problem": as_json(found.problems[0]) if found.problems else None,
        "checkpoints": [_row_json(row) for row in found.rows] if detailed else None,
    }


_SUMMARY = (
    "attempt", "epoch", "batch", "phase", "time", "metrics", "metrics_left_out",
    "tensors", "bytes", "new_bytes", "good", "why_not_good",
)  # fmt: skip


def _row_json(row: Row) -> dict[str, Any]:
    listed = row.listed
    return {
        "folder": listed.folder,
        "step": listed.step,
        **{key: None if listed.summary is None else getattr(listed.summary, key) for key in _SUMMARY},
        "branch": row.branch,
        "latest": row.latest,
        "best": row.best,
        "tags": list(row.tags),
        "symptoms": list(row.symptoms),
        "problem": listed.problem,
    }
