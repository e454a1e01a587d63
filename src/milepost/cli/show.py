"""``milepost show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost.cli import complete
from milepost.cli.options import Json, RefArgument
from milepost.cli.table import Cell, Column, Styled, cells, table
from milepost.cli.terminal import document, paint, say, width
from milepost.core import words
from milepost.core.text import safe

if TYPE_CHECKING:
    from milepost.core.source import TensorSource
    from milepost.folder.checkpoint import Checkpoint
    from milepost.ops.contents import Entry, FileInfo


def show(
    ref: RefArgument,
    prefix: Annotated[
        str, typer.Argument(metavar="[PATH]", help="Only what is at and below it.", autocompletion=complete.paths)
    ] = "",
    as_json: Json = False,
) -> int:
    """Show what is in a checkpoint, and what wrote it.

    The state is shown as a tree. Nothing but the manifest is read (of other formats the header or index; nothing in a
    file is ever executed). "Shared" are bytes in files that other checkpoints have too.

    For example:

        milepost show runs/mnist
        milepost show runs/mnist@best optimizer
        milepost show model.pt
        milepost show runs/mnist/step-00001200 --json | jq '.tensors | keys'

    JSON:

        where, written_by: {...},
        summary: {format, run, attempt, step, epoch, batch, phase, time, metrics,
                  metrics_left_out, tensors, bytes, new_bytes, good, why_not_good},
        files: {NAME: {bytes, plain, names}},
        tensors: {PATH: {dtype, shape, bytes, shared_bytes, tied_to, shards, finite}},
        values: {PATH: {kind, value}}, the value typed as in the manifest;
        of other formats: where, format and what else the file tells (step, epoch, written_by ...),
        tensors: {PATH: {dtype, shape, bytes}}, values
    """
    from milepost.folder.checkpoint import Checkpoint
    from milepost.ops.contents import entries_of, files_of
    from milepost.ops.refs import open as open_source
    from milepost.ops.refs import wording

    checkpoint = open_source(ref)
    if not isinstance(checkpoint, Checkpoint):
        return _show_other(checkpoint, prefix, as_json=as_json)
    with wording("look at the files", checkpoint.where):
        files = files_of(checkpoint)
    entries = entries_of(checkpoint, files, prefix)
    if as_json:
        document(_as_json(checkpoint, files, entries))
        return 0
    if not prefix:
        _say_head(checkpoint, files)
        say()
    _say_tree(entries)
    return 0


def _show_other(source: TensorSource, prefix: str, *, as_json: bool) -> int:
    from milepost.ops.outline import outline

    entries = outline(source, prefix)
    if as_json:
        document({"where": source.where, **source.metadata, **_other_as_json(entries)})
        return 0
    if not prefix:
        say(paint(safe(source.where), "bold"))
        nbytes = sum(spec.nbytes for spec in source.specs.values())
        facts = [(safe(name), words.inline(value)) for name, value in source.metadata.items()]
        _say_facts([*facts, ("size", f"{words.size(nbytes)} in {words.count(len(source), 'tensor')}")])
        say()
    _say_tree(entries)
    return 0


def _say_head(checkpoint: Checkpoint, files: list[FileInfo]) -> None:
    summary = checkpoint.manifest.summary
    say(paint(safe(checkpoint.where), "bold"))
    place = f"step {summary.step}, epoch {summary.epoch}, batch {summary.batch}, {safe(summary.phase)}"
    metrics = ", ".join(f"{safe(name)} {words.number(summary.metric(name) or 0.0)}" for name in summary.metrics)
    if summary.metrics_left_out:
        metrics += f" and {summary.metrics_left_out} more"
    shared = sum(file.size for file in files if file.names > 1)
    nbytes = f"{words.size(summary.bytes)} in {words.count(len(files), 'file')}"
    saved, ago = words.moment(summary.time)
    facts = [
        ("saved", f"{saved}{ago and f' ({ago})'} by attempt {summary.attempt} of run {safe(summary.run)}"),
        ("at", place),
        ("state", "good" if summary.good else paint(f"not good: {safe(summary.why_not_good or '')}", "red")),
        ("metrics", metrics),
        ("size", nbytes + (f", {words.size(shared)} shared with other checkpoints" if shared else "")),
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


def _say_tree(entries: list[Entry]) -> None:
    columns = [
        Column("PATH", least=24), Column("TYPE"), Column("VALUE", least=12),
        Column("SIZE", right=True), Column("NOTES", least=8),
    ]  # fmt: skip
    lines, _ = table(columns, [_cells(entry) for entry in entries], width())
    if lines:
        say("\n".join(lines))


def _cells(entry: Entry) -> list[Cell]:
    # Below its parent only the last part is shown; the first line has the whole path.
    name = entry.path.rpartition("/")[2] if entry.depth else entry.path
    indented = "  " * entry.depth + safe(name)
    if entry.spec is None:
        value = safe(entry.text) if entry.size is None else words.count(entry.size, "value")
        size = words.size(entry.nbytes) if entry.nbytes else ""
        shared = f"{words.size(entry.shared)} shared" if entry.shared else ""
        return [Styled(indented, "bold") if entry.nbytes else indented, safe(entry.kind), value, size, shared]
    notes = []
    if entry.tied_to is not None:
        notes.append(f"tied to {safe(entry.tied_to)}")
    if entry.shared:
        notes.append("shared")
    if entry.shards > 1:
        notes.append(f"{entry.shards} shards")
    if not entry.finite:
        notes.append("NaN or infinity")
    size = "" if entry.tied_to is not None else words.size(entry.nbytes)
    return [indented, entry.spec.dtype.name, words.shape(entry.spec.shape), size, ", ".join(notes)]


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


def _other_as_json(entries: list[Entry]) -> dict[str, Any]:
    tensors = {
        entry.path: {"dtype": entry.spec.dtype.name, "shape": list(entry.spec.shape), "bytes": entry.nbytes}
        for entry in entries
        if entry.spec is not None
    }
    plain = {
        entry.path: {"kind": entry.kind, "value": entry.encoded}
        for entry in entries
        if entry.spec is None and entry.size is None
    }
    return {"tensors": tensors, "values": plain}
