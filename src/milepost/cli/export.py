"""``milepost export``."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from milepost.cli import complete, objects
from milepost.cli.diff import rule
from milepost.cli.options import Json, SourceArgument
from milepost.cli.terminal import document, say
from milepost.core import words
from milepost.core.text import safe


def export(
    ref: SourceArgument,
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A new file or folder.", autocompletion=complete.places)
    ],
    format_name: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="orbax or tensorflow. By default as the name of DEST ends."),
    ] = None,
    whole_run: Annotated[
        bool, typer.Option("--all", help="All checkpoints of the run, with their steps and metrics, in one folder.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", metavar="PATH", help="What is at PATH is all that is written.", autocompletion=complete.paths
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            "--leave-out", metavar="PATH", help="Not this; * and ? stand for any characters. Can be given again."
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="NAME", help="How it lies in the folder. orbax: see below.")
    ] = None,
    model: Annotated[str | None, objects.OPTION] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OLD=NEW", help="tensorflow: what REF calls OLD is NEW in the model."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict/--no-strict", help="tensorflow: whether all that the model has must be in REF."),
    ] = True,
    as_json: Json = False,
) -> int:
    """Write a checkpoint as another format.

    The library whose format it is writes it, so it has to be installed. DEST appears whole or not at all; before that,
    what was written is read back and compared bit for bit with what was read from REF. Of a run, what milepost keeps
    for itself (random state, the place in the data) is left out.

    --format orbax: a DEST whose name is a step, as orbax/469, becomes a step of the CheckpointManager of the folder
    above it (--layout step), another what StandardCheckpointer saves (--layout tree). --layout items makes each item of
    the run one of the manager, --layout v1 writes by the new interface of Orbax.

    --format tensorflow: a checkpoint that tf.train.Checkpoint(model=model, optimizer=model.optimizer).restore(DEST)
    takes whole, and its folder's latest. It holds a graph of objects, so it needs them: MODULE:FUNCTION is imported
    and called, with the current folder first on the path, and returns a tf.Module, a Keras model on its TensorFlow
    backend, or a dict of such objects by name.

    For example:

        milepost export runs/mnist@best orbax/469 --format orbax
        milepost export runs/mnist weights --format orbax --only model
        milepost export runs/mnist manager --format orbax --all
        milepost export bias.npz tf/ckpt-8 --format tensorflow --model nets:module

    JSON:

        where, format, checkpoints, tensors, bytes, left_out: [PATH]
    """
    from milepost.ops.export import export as write

    options: dict[str, Any] = {"only": only, "leave_out": leave_out, "layout": layout}
    options |= {"rename": dict(rule(text) for text in maps or ())} | ({} if strict else {"strict": False})
    given = {name: value for name, value in options.items() if value or value is False}
    if model is not None:
        if format_name == "tensorflow":
            os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        given["model"] = objects.call(model)
    done = write(ref, destination, format=format_name, whole_run=whole_run, **given)
    if as_json:
        document(
            {
                "where": done.where, "format": done.format, "checkpoints": done.checkpoints, "tensors": done.tensors,
                "bytes": done.nbytes, "left_out": list(done.left_out),
            }
        )  # fmt: skip
        return 0
    many = f"{words.count(done.checkpoints, 'checkpoint')}, " if whole_run else ""
    say(f"{safe(done.where)}: {many}{words.count(done.tensors, 'tensor')}, {words.size(done.nbytes)}, read back: equal")
    if done.left_out:
        rest = "" if len(done.left_out) <= 8 else f" and {len(done.left_out) - 8:,} more"
        say(f"left out: {', '.join(map(safe, done.left_out[:8]))}{rest}")
    return 0
