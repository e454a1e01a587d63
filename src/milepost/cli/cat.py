"""``milepost cat``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import complete
from milepost.cli.options import Json, SourceArgument
from milepost.cli.terminal import document, note, paint, say, width
from milepost.core import words
from milepost.core.text import safe

if TYPE_CHECKING:
    import numpy.typing as npt

    from milepost.ops.values import Value

MOST = 1000
"""Elements of a tensor that are shown whole without --all."""


def cat(
    ref: SourceArgument,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Tensors or plain values; * and ? stand for any characters.",
            autocompletion=complete.paths,
        ),
    ],
    show_all: Annotated[bool, typer.Option("--all", help="All elements, however many.")] = False,
    part: Annotated[
        str | None,
        typer.Option("--slice", metavar="SLICE", help="Only this part of the tensors, as numpy has it: 0:10, :, -1"),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="One element a line, exactly, and nothing else.")] = False,
    npy: Annotated[
        str | None,
        typer.Option("--npy", metavar="FILE", help="Write the one tensor to a new .npy file, or to stdout if it is -."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Print tensors and plain values of a checkpoint.

    Tensors are printed as numpy does, plain values as JSON. What is read is checked against its digest first. Tensors
    of more than 1,000 elements are summarised without --all.

    For example:

        milepost cat runs/mnist@best model/fc1.bias
        milepost cat runs/mnist vars/patience
        milepost cat model.pt '*.bias' --slice :3
        milepost cat model.safetensors fc1.weight --text | sort -g | tail -3
        milepost cat runs/mnist@best model/fc1.weight --npy fc1.npy

    JSON:

        where, values: [{path, kind, dtype, shape, value}]
        dtype and shape are null for plain values; the value of a tensor is null if it has more
        than 1,000 elements (--all gives them); NaN and infinities are text
    """
    from milepost.ops import values
    from milepost.ops.refs import open as open_source

    source = open_source(ref)
    found = values.read(source, paths)
    if part is not None:
        found = [_cut(value, part) for value in found]
    if npy is not None:
        if len(found) != 1:
            raise typer.BadParameter(f"--npy writes one tensor, not {len(found)}")
        array = found[0].array
        if array is None:
            raise typer.BadParameter(f"--npy writes a tensor; {found[0].path} is a plain value of kind {found[0].kind}")
        if changed := values.write_npy(array, npy):
            note(changed)
    if as_json:
        most = None if show_all else MOST
        document({"where": source.where, "values": [_as_json(value, most) for value in found]})
    elif npy is None:
        for value in found:
            if text and value.array is not None:
                _say_text(value.array)
            else:
                _say(value, show_all=show_all, titled=len(found) > 1)
    return 0


def _cut(value: Value, part: str) -> Value:
    from milepost.ops.values import sliced

    if value.array is None or value.spec is None:
        return value
    array = sliced(value.array, part)
    return value._replace(array=array, spec=value.spec._replace(shape=array.shape))


def _say_text(array: npt.NDArray[Any]) -> None:
    from milepost.ops.values import as_npy

    flat = as_npy(array)[0].reshape(-1)
    for start in range(0, flat.size, MOST):
        say("\n".join(map(str, flat[start : start + MOST])))


def _say(value: Value, *, show_all: bool, titled: bool) -> None:
    if value.array is None or value.spec is None:
        if titled:
            say(paint(safe(value.path), "bold"))
        say(json.dumps(value.encoded, indent=1).replace("\x7f", "\\u007f"))
        return
    import sys

    import numpy as np

    say(paint(f"{safe(value.path)}  {value.spec.dtype.name}  {words.shape(value.spec.shape)}", "bold"))
    columns = width() or 120
    if show_all:
        say(np.array2string(value.array, threshold=sys.maxsize, max_line_width=columns))
    else:
        say(np.array2string(value.array, threshold=MOST, max_line_width=columns))


def _as_json(value: Value, most: int | None) -> dict[str, Any]:
    from milepost.ops import values

    told: dict[str, Any] = {
        "path": value.path,
        "kind": value.kind,
        "dtype": None,
        "shape": None,
        "value": value.encoded,
    }
    if value.array is not None and value.spec is not None:
        told |= {
            "dtype": value.spec.dtype.name,
            "shape": list(value.spec.shape),
            "value": values.as_json(value.array, most),
        }
    return told
