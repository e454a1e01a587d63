"""Copying a checkpoint that is whole elsewhere into a work folder of a run: the way from the node's disk to the run directory."""

from __future__ import annotations

from collections.abc import Callable

from milepost.core.manifest import File
from milepost.folder import names
from milepost.folder.checkpoint import READ_ROOM, Checkpoint
from milepost.folder.sharing import Base, try_link
from milepost.folder.writer import write_read_only
from milepost.storage.base import Storage
from milepost.storage.pages import Pages


def copy_checkpoint(
    source: Checkpoint, run: Storage, draft: str, base: Base | None, on_bytes: Callable[[int], None]
) -> None:
    """Copy every file of `source` into folder `draft` of `run`, each synced, and then its manifest, byte for byte.

    A file that the base holds already is linked. What is read is checked on its way: a copy is whole, or there is none.

    Args:
        source: the checkpoint.
        run: the run directory.
        draft: an empty folder in it.
        base: a checkpoint of `run` that this attempt wrote.
        on_bytes: told how many bytes were written, now and then; may wait, and may raise to give up.

    Raises:
        DamagedError: `source` is not what was saved.
        StorageError: it cannot be read.
        OSError: `run` refused.
    """
    room = Pages(READ_ROOM).view
    there = {(file.size, file.digest): name for name, file in base.manifest.files.items()} if base is not None else {}
    for name, file in source.manifest.files.items():
        known = there.get((file.size, file.digest))
        if known is None or base is None or not try_link(run, f"{base.folder}/{known}", f"{draft}/{name}", file.size):
            _copy_file(source, name, file, run, f"{draft}/{name}", room, on_bytes)
    write_read_only(run, f"{draft}/{names.MANIFEST}", source.storage.read(names.MANIFEST))


def _copy_file(
    source: Checkpoint,
    name: str,
    file: File,
    run: Storage,
    target: str,
    room: memoryview,
    on_bytes: Callable[[int], None],
) -> None:
    writer = run.create(target, file.size)

    def write(offset: int, block: memoryview) -> None:
        writer.write(block, offset)
        on_bytes(len(block))

    try:
        source.read_file(name, room, None, write)
        writer.finish(file.size)
    except BaseException:
        writer.abort()
        raise
