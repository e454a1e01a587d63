"""``milepost tag``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from milepost.cli import complete
from milepost.cli.options import Json
from milepost.cli.table import Column, table
from milepost.cli.terminal import document, note, say, width
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.folder.run import RunFolder


def tag(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="RUN[@WHICH]", help="The checkpoint; the newest if none is said.", autocompletion=complete.refs
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Letters, digits, dot, dash, underscore.", autocompletion=complete.tags),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Take the tag away.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List the tags of the run (as without NAME).")] = False,
    as_json: Json = False,
) -> int:
    """Give a checkpoint a name.

    Retention never removes a tagged checkpoint. A tag that stood elsewhere moves. It can be used wherever a
    checkpoint is named: runs/mnist@paper.

    For example:

        milepost tag runs/mnist@best paper
        milepost tag runs/mnist --list
        milepost tag runs/mnist paper --delete

    JSON:

        tags: [{name, attempt, step, folder}], all tags of the run as they are now;
        folder is null if the checkpoint is gone
    """
    from milepost.folder.tags import read_tags, remove_tag, set_tag
    from milepost.ops.refs import Ref, locate, run_of, wording

    if name is None and delete:
        raise typer.BadParameter("--delete wants the NAME of a tag")
    if name is not None and list_all:
        raise typer.BadParameter("--list takes no NAME")
    parsed = Ref.parse(ref)
    run = run_of(parsed)
    if name is None:
        _show(run, as_json=as_json)
        return 0
    with wording("change the tags", run.where):
        before = read_tags(run).get(name)
        if delete:
            remove_tag(run, name)
        else:
            _, checkpoint = locate(parsed)
            set_tag(run, name, checkpoint)
    if as_json:
        _show(run, as_json=True)
    elif delete:
        say(f"{safe(name)} taken away")
    else:
        say(f"{safe(name)} -> {checkpoint.folder}")
        if before is not None and before.step != checkpoint.step:
            note(f"it was at step {before.step} before")
    return 0


def _show(run: RunFolder, *, as_json: bool) -> None:
    from milepost.folder.tags import read_tags
    from milepost.ops.refs import wording

    with wording("read the tags", run.where):
        tags = read_tags(run)
        checkpoints = run.checkpoints()
    folders = {(one.summary.attempt, one.step): one.folder for one in checkpoints if one.summary is not None}
    found = [
        {"name": name, "attempt": tag.attempt, "step": tag.step, "folder": folders.get((tag.attempt, tag.step))}
        for name, tag in sorted(tags.items())
    ]
    if as_json:
        document({"tags": found})
        return
    rows = [[safe(str(tag["name"])), str(tag["step"]), str(tag["folder"] or "gone")] for tag in found]
    lines, _ = table([Column("TAG"), Column("STEP", right=True), Column("CHECKPOINT")], rows, width())
    if lines:
        say("\n".join(lines))
    else:
        note("no tags")
