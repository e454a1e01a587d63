"""``milepost diff``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import complete
from milepost.cli.options import Json
from milepost.cli.table import say_table
from milepost.cli.terminal import Progress, document, note, paint, say
from milepost.core import words
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.ops.diff import Diff, TensorDiff

_OTHER = "PLACE[@WHICH] or a file or folder of any format that milepost reads."


def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help=f"The one to start from: {_OTHER}", autocompletion=complete.sources)
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.", autocompletion=complete.sources)],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH...]",
            help="Only these, in B's names; * and ? stand for any characters.",
            autocompletion=complete.paths,
        ),
    ] = None,
    only_changed: Annotated[bool, typer.Option("--only-changed", help="Leave out what is the same.")] = False,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="OLD=NEW",
            help="What A calls OLD is NEW in B: a path, what paths begin with, or a pattern with *; can be given again.",
        ),
    ] = None,
    atol: Annotated[
        float, typer.Option("--atol", metavar="X", min=0, help="Differences up to X + R * abs(a) are none.")
    ] = 0.0,
    rtol: Annotated[float, typer.Option("--rtol", metavar="R", min=0, help="See --atol.")] = 0.0,
    as_json: Json = False,
) -> int:
    """Compare two checkpoints, of whatever formats.

    REL L2 is the norm of the difference beside that of A's tensor, MAX ABS the largest difference of two elements, COSINE
    that of the angle between them. NaN is equal to NaN at the same place. Another type is a difference unless --atol or
    --rtol is given and the values keep to it. What both sides know by equal digests is not read. Exit code 1 says that
    something differs.

    For example:

        milepost diff runs/mnist@~1 runs/mnist --only-changed
        milepost diff runs/mnist@best model.safetensors --map model/=
        milepost diff a.pt b.pt 'fc*' --rtol 1e-3

    JSON:

        a, b, same, unmatched_maps: [OLD],
        tensors: {PATH: {verdict, old_path, a: {dtype, shape}, b: {dtype, shape}, by_digest,
                         elements_unequal, elements_beyond, relative_l2, max_abs, cosine,
                         nans_in_both, not_finite_in_one}},
        values: {PATH: {verdict, old_path, a, b}}
        verdict: same, changed, dtype, shape, added, removed or kind (a tensor on one side only)
        what was measured is left out where there is nothing to measure
    """
    from milepost.ops.diff import diff as find
    from milepost.ops.refs import open as open_source

    rules = dict(rule(text) for text in maps or ())
    one, other = open_source(a), open_source(b)
    with Progress() as progress:
        done = 0

        def on_tensor(path: str, nbytes: int) -> None:
            nonlocal done
            progress.show(f"{words.size(done)}: {safe(path)}", often=True)
            done += nbytes

        found = find(one, other, paths or None, rename=rules, atol=atol, rtol=rtol, on_tensor=on_tensor)
    for old in found.unmatched:
        note(f"--map {safe(old)}={safe(rules[old])} applies to nothing in {safe(a)}")
    if as_json:
        document(_as_json(found))
    else:
        _say(found, only_changed=only_changed)
        if not rules and not any(pair.a and pair.b for pair in found.tensors):
            _suggest(list(one.specs), list(other.specs))
    return 0 if found.same else 1


def rule(text: str) -> tuple[str, str]:
    """What ``--map`` says: OLD and NEW."""
    old, mark, new = text.partition("=")
    if not mark:
        raise typer.BadParameter(f"--map takes OLD=NEW, not {text!r}")
    return old, new


def _suggest(here: list[str], there: list[str]) -> None:
    from milepost.ops.renaming import suggest

    if rule := suggest(here, there):
        note(f"no path is in both; `--map {safe(rule)}` would make them meet")


def _say(found: Diff, *, only_changed: bool) -> None:
    from milepost.ops.diff import COLUMNS, rows_of

    say(f"{paint(safe(found.a), 'bold')} → {paint(safe(found.b), 'bold')}")
    say_table(COLUMNS, rows_of(found, only_changed=only_changed))
    say(found.summary())


def _as_json(found: Diff) -> dict[str, Any]:
    return {
        "a": found.a, "b": found.b, "same": found.same, "unmatched_maps": list(found.unmatched),
        "tensors": {one.path: _tensor_json(one) for one in found.tensors},
        "values": {
            one.path: {"verdict": one.verdict, "old_path": one.old, "a": one.a, "b": one.b} for one in found.values
        },
    }  # fmt: skip


def _tensor_json(one: TensorDiff) -> dict[str, Any]:
    from math import isfinite

    ends = {
        side: None if spec is None else {"dtype": spec.dtype.name, "shape": list(spec.shape)}
        for side, spec in (("a", one.a), ("b", one.b))
    }
    told: dict[str, Any] = {"verdict": one.verdict, "old_path": one.old, **ends, "by_digest": one.digests}
    found = one.distance
    if found is not None:
        relative = found.relative_l2
        told |= {
            "elements_unequal": found.unequal, "elements_beyond": found.beyond,
            "relative_l2": relative if isfinite(relative) else repr(relative), "max_abs": found.max_abs,
            "cosine": found.cosine, "nans_in_both": found.nans, "not_finite_in_one": found.lone,
        }  # fmt: skip
    return told
