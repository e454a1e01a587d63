"""``milepost show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import complete
from milepost.cli.options import Json, SourceArgument
from milepost.cli.table import cells
from milepost.cli.terminal import document, paint, say
from milepost.core import words
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.core.source import TensorSource
    from milepost.folder.checkpoint import Checkpoint
    from milepost.ops.contents import Entry, FileInfo


def show(
    ref: SourceArgument,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH...]",
            help="Only what is at and below it; * and ? stand for any characters.",
            autocompletion=complete.paths,
        ),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Every value, however many lines that takes.")] = False,
    depth: Annotated[int | None, typer.Option("--depth", metavar="N", min=1, help="Only so many levels.")] = None,
    as_json: Json = False,
) -> int:
    """Show what is in a checkpoint, what wrote it, and what it is good for.

    The state is shown as a tree. Nothing but the manifest is read (of other formats the header or index; nothing in a
    file is ever executed). What it holds is told from names: weights, a whole model, or a state to continue from.
    "Shared" are bytes in files that other checkpoints have too. In a terminal, a long tree is made short: what is alike
    is one line, and what is left out is counted.

    For example:

        milepost show runs/mnist
        milepost show runs/mnist@best optimizer --depth 2
        milepost show model.pt '*.weight'
        milepost show runs/mnist/step-00001200 --json | jq '.tensors | keys'

    JSON:

        where, written_by: {...}, holds: {what, parts, lacks},
        summary: {format, run, attempt, step, epoch, batch, phase, time, metrics,
                  metrics_left_out, tensors, bytes, new_bytes, good, why_not_good},
        files: {NAME: {bytes, plain, names}},
        tensors: {PATH: {dtype, shape, bytes, shared_bytes, tied_to, shards, finite}},
        values: {PATH: {kind, value}}, the value typed as in the manifest;
        notes: {PATH: what a program called it, or how it is stored};
        of other formats: where, holds, format and what else the file tells (step, epoch ...),
        tensors: {PATH: {dtype, shape, bytes, note}}, values, notes
    """
    from milepost.ops.contents import entries_of, files_of
    from milepost.ops.outline import CLASS, outline, picked
    from milepost.ops.refs import open as open_source
    from milepost.ops.refs import own, wording

    source = open_source(ref)
    checkpoint = own(source)
    if checkpoint is not None:
        with wording("look at the files", source.where):
            files = files_of(checkpoint)
        entries = picked(source, entries_of(checkpoint, files), paths or ())
        told = _as_json(checkpoint, files, entries) if as_json else {}
    else:
        entries = picked(source, outline(source), paths or ())
        told = {"where": source.where, **source.metadata, **_other_as_json(source, entries)} if as_json else {}
    from milepost.ops.numbered import parameters

    notes = {**parameters(source), **source.notes}
    if as_json:
        said = {entry.path: notes[entry.path] for entry in entries if entry.path in notes}
        document({**told, "holds": _holds_json(source), "notes": said})
        return 0
    if not paths:
        if checkpoint is not None:
            _say_head(checkpoint, files)
        else:
            _say_other_head(source)
        say()
    from milepost.cli.tree import say_tree

    shown = entries if paths else [entry for entry in entries if entry.path != CLASS]  # which the head has
    say_tree(shown, notes, show_all=show_all, depth=depth)
    return 0


def _holds(source: TensorSource) -> str:
    from milepost.ops.holding import holding

    return str(holding(source))


def _holds_json(source: TensorSource) -> dict[str, Any]:
    from milepost.ops.holding import holding

    found = holding(source)
    return {"what": found.what, "parts": list(found.parts), "lacks": list(found.lacks)}


def _say_other_head(source: TensorSource) -> None:
    from milepost.ops.outline import CLASS

    say(paint(safe(source.where), "bold"))
    nbytes = sum(spec.nbytes for spec in source.specs.values())
    facts = [(safe(name.replace("_", " ")), _fact(value)) for name, value in source.metadata.items()]
    if isinstance(source.plain.get(CLASS), str):
        facts.append(("class", safe(source.plain[CLASS])))
    _say_facts(
        [*facts, ("size", f"{words.size(nbytes)} in {words.count(len(source), 'tensor')}"), ("holds", _holds(source))]
    )


def _fact(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        shown = value if len(value) <= 8 else [*value[:3], "…", *value[-3:]]
        return safe(", ".join(shown))
    return words.inline(value)


def _say_head(checkpoint: Checkpoint, files: list[FileInfo]) -> None:
    summary = checkpoint.manifest.summary
    say(paint(safe(checkpoint.where), "bold"))
    place, who = f"step {summary.step}", ""
    if summary.run:  # nobody counted epochs for what was saved outside of a run
        place += f", epoch {summary.epoch}, batch {summary.batch}, {safe(summary.phase)}"
        who = f" by attempt {summary.attempt} of run {safe(summary.run)}"
    metrics = ", ".join(f"{safe(name)} {words.number(summary.metric(name) or 0.0)}" for name in summary.metrics)
    if summary.metrics_left_out:
        metrics += f" and {summary.metrics_left_out} more"
    shared = sum(file.size for file in files if file.names > 1)
    nbytes = f"{words.size(summary.bytes)} in {words.count(len(files), 'file')}"
    saved, ago = words.moment(summary.time)
    facts = [
        ("saved", f"{saved}{ago and f' ({ago})'}{who}"),
        ("at", place),
        ("state", "good" if summary.good else paint(f"not good: {safe(summary.why_not_good or '')}", "red")),
        ("metrics", metrics),
        ("size", nbytes + (f", {words.size(shared)} shared with other checkpoints" if shared else "")),
        ("holds", _holds(checkpoint)),
    ]
    _say_facts(facts)
    if checkpoint.manifest.written_by:
        say("written by")
        _say_facts([(safe(key), words.inline(value)) for key, value in checkpoint.manifest.written_by.items()])
    if files:
        say("files")
        _say_facts([(safe(file.name), _file(file)) for file in files])


def _say_facts(facts: list[tuple[str, str]]) -> None:
    wide = max(cells(name) for name, _ in facts)
    for name, value in facts:
        if value:
            say(f"  {name}{' ' * (wide - cells(name))}  {value}")


def _file(file: FileInfo) -> str:
    notes = [words.size(file.size), "safetensors" if file.plain else "safetensors, not a whole item"]
    if file.names == 0:
        notes.append(paint("missing", "red"))
    elif file.names > 1:
        notes.append(f"shared by {file.names} names")
    return ", ".join(notes)


def _as_json(checkpoint: Checkpoint, files: list[FileInfo], entries: list[Entry]) -> dict[str, Any]:
    import msgspec

    tensors, values = {}, {}
    for entry in entries:
        if entry.spec is not None:
            tensors[entry.path] = {
                "dtype": entry.spec.dtype.name,
                "shape": list(entry.spec.shape),
                "bytes": entry.nbytes,
                "shared_bytes": entry.shared,
                "tied_to": entry.tied_to,
                "shards": entry.shards,
                "finite": entry.finite,
            }
        elif entry.size is None:
            values[entry.path] = {"kind": entry.kind, "value": entry.encoded}
    summary = {
        name: getattr(checkpoint.manifest.summary, name) for name in checkpoint.manifest.summary.__struct_fields__
    }
    return {
        "where": checkpoint.where,
        "summary": summary,
        "written_by": msgspec.to_builtins(checkpoint.manifest.written_by),
        "files": {file.name: {"bytes": file.size, "plain": file.plain, "names": file.names} for file in files},
        "tensors": tensors,
        "values": values,
    }


def _other_as_json(source: TensorSource, entries: list[Entry]) -> dict[str, Any]:
    tensors = {
        entry.path: {
            "dtype": entry.spec.dtype.name,
            "shape": list(entry.spec.shape),
            "bytes": entry.nbytes,
            "note": source.notes.get(entry.path),
        }
        for entry in entries
        if entry.spec is not None
    }
    plain = {
        entry.path: {"kind": entry.kind, "value": entry.encoded}
        for entry in entries
        if entry.spec is None and entry.size is None
    }
    return {"tensors": tensors, "values": plain}
