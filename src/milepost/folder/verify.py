"""Checking a checkpoint against its manifest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from milepost.errors import DamagedError, FormatError, MilepostError, StorageError
from milepost.folder import names
from milepost.folder.checkpoint import READ_ROOM, Checkpoint
from milepost.storage.pages import Pages


class Finding(NamedTuple):
    """What was found out about one file or tensor of `nbytes` bytes: `problem` is None if it is as it was saved."""

    name: str
    nbytes: int
    problem: MilepostError | None


def verify_quickly(checkpoint: Checkpoint) -> list[Finding]:
    """Sizes and headers of all files; the manifest was checked when the checkpoint was opened. Reads a few kB of each."""
    files = checkpoint.manifest.files
    found = [Finding(name, file.size, _problem(checkpoint.spans, name)) for name, file in files.items()]
    return found + _strangers(checkpoint)


def verify_fully(checkpoint: Checkpoint, on_block: Callable[[int], None] | None = None) -> list[Finding]:
    """Every byte of every file against its digest. Takes 64 MiB of memory; `on_block` is told the number of bytes
    after each block."""
    files = checkpoint.manifest.files
    room = Pages(READ_ROOM).view

    def count(start: int, block: memoryview) -> None:
        if on_block is not None:
            on_block(len(block))

    found = [
        Finding(name, file.size, _problem(checkpoint.read_file, name, room, None, count))
        for name, file in files.items()
    ]
    return found + _strangers(checkpoint)


def verify_tensors(checkpoint: Checkpoint, paths: Collection[str]) -> list[Finding]:
    """Only the tensors `paths`. Raises `NotFoundError` for a path that is not there."""
    for path in paths:
        checkpoint.resolve(path)
    return [Finding(path, checkpoint.specs[path].nbytes, _problem(checkpoint.__getitem__, path)) for path in paths]


def _problem(check: Callable[..., object], *arguments: object) -> MilepostError | None:
    try:
        check(*arguments)
    except (DamagedError, FormatError, StorageError) as error:
        return error
    return None


def _strangers(checkpoint: Checkpoint) -> list[Finding]:
    """Files that the manifest does not know: harmless, but nobody can say whether they are right."""
    known = {names.MANIFEST, *checkpoint.manifest.files}
    return [
        Finding(name, 0, DamagedError("the manifest does not list this file", where=f"{checkpoint.where}/{name}"))
        for name in checkpoint.storage.list()
        if name not in known
    ]
