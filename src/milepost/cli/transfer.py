"""``milepost transfer``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import complete, objects
from milepost.cli.diff import rule
from milepost.cli.options import Json, SourceArgument
from milepost.cli.table import say_table
from milepost.cli.terminal import document, paint, say
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.ops.transfer import TransferReport


def transfer(
    ref: SourceArgument,
    model: Annotated[str, objects.OPTION],
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="OLD=NEW",
            help="What the source calls OLD is NEW in the model: a path, what paths begin with, or a pattern with *; "
            "can be given again.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="PATH",
            help="Only this, and what is below it; can be given again.",
            autocompletion=complete.paths,
        ),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", metavar="PATH", help="Not this; * and ? stand for any characters."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Show which weights of a checkpoint would go where in a model.

    Nothing is written. MODULE:FUNCTION is imported and called, with the current folder first on the path; it returns a
    Keras model, a torch module, or what TensorFlow tracks, with its variables. Then `milepost.transfer(REF, model)` in
    a script loads the weights. What belongs together is found by the names that each library gives.

    For example:

        milepost transfer model.pt --model nets:build
        milepost transfer runs/mnist@best --model nets:build --only model

    Exit code 1 says that something is missing, unexpected or of another shape.

    JSON:

        source, target, acceptable, matched_by, bytes, loaded: {NAME: PATH}, cast: {NAME: TYPES},
        mismatched: [{name, source, target}], missing: [NAME], unexpected: [PATH], beside: [PATH]
    """
    from milepost.ops.transfer import COLUMNS, rows_of
    from milepost.ops.transfer import transfer as load

    rename = dict(rule(text) for text in maps or ())
    found = load(ref, objects.call(model), rename=rename, include=only or None, exclude=leave_out or None, dry_run=True)
    if as_json:
        document(_as_json(found))
    else:
        say(f"{paint(safe(found.source), 'bold')} → {paint(safe(found.target), 'bold')}")
        say_table(COLUMNS, rows_of(found))
        say(found.summary())
    return 0 if found.acceptable else 1


def _as_json(found: TransferReport) -> dict[str, Any]:
    return {
        "source": found.source, "target": found.target, "acceptable": found.acceptable, "matched_by": found.matched_by,
        "bytes": found.nbytes, "loaded": dict(found.loaded), "cast": dict(found.cast),
        "mismatched": [{"name": row.path, "source": row.saved, "target": row.here} for row in found.mismatched],
        "missing": list(found.missing), "unexpected": list(found.unexpected), "beside": list(found.beside),
    }  # fmt: skip
