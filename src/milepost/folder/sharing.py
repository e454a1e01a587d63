"""Which bytes of an item are already in a file of an earlier checkpoint, which files are worth linking to, and the link."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from milepost.core.layout import Entry
from milepost.core.manifest import Manifest, Shard
from milepost.folder.snapshot import Piece
from milepost.storage.base import Storage

MOST_PARTS = 8
"""Files an item may be spread over before it is written anew: bounds what a reader must open."""


class Base(NamedTuple):
    """The checkpoint that a save may link to: its folder and manifest. All its files were written or verified by this attempt."""

    folder: str
    manifest: Manifest


class Reuse(NamedTuple):
    """What to link and what to write. `linked` maps a file of the base to the shards taken from it; `rest` are the indices of
    entries that must be written."""

    linked: dict[str, dict[Piece, Shard]]
    rest: list[int]


def reuse(base: Base | None, pieces: Sequence[Piece], entries: Sequence[Entry], digests: Sequence[str]) -> Reuse:
    """Compare an item with what the base holds of it.

    A file is worth linking to if at least half of it is alive; otherwise its live entries are written anew, so that the space
    held by dead bytes stays below the size of the item.
    """
    everything = list(range(len(entries)))
    if base is None:
        return Reuse({}, everything)
    found: defaultdict[str, dict[int, Shard]] = defaultdict(dict)
    for index in everything:
        shard = _unchanged(base.manifest, pieces[index], entries[index], digests[index])
        if shard is not None:
            found[shard.file][index] = shard
    worth = {
        name: shards
        for name, shards in found.items()
        if 2 * sum(entries[index].nbytes for index in shards) >= base.manifest.files[name].size
    }
    if len(worth) >= MOST_PARTS:
        worth = {}
    taken = {index for shards in worth.values() for index in shards}
    return Reuse(
        {name: {pieces[index]: shard for index, shard in shards.items()} for name, shards in sorted(worth.items())},
        [index for index in everything if index not in taken],
    )


def _unchanged(manifest: Manifest, piece: Piece, entry: Entry, digest: str) -> Shard | None:
    tensor = manifest.tensors.get(piece.path)
    if tensor is None or tensor.dtype != entry.dtype.name:
        return None
    for shard in tensor.shards:
        if (shard.offset, shard.shape) == (piece.box or (None, None)):
            same = shard.digest == digest and shard.key == entry.key and (shard.shape or tensor.shape) == entry.shape
            return shard if same and shard.file in manifest.files else None
    return None


def try_link(run: Storage, source: str, target: str, size: int) -> bool:
    """Link a file; False where the file system will not, or where the file is not what it was: then it is written."""
    try:
        run.link(source, target)
    except OSError:
        # ENOENT (pruned), EMLINK, EXDEV, EPERM, ...: writing the bytes is larger, never wrong. Over a network a link may have been
        # made and its answer lost.
        with contextlib.suppress(FileNotFoundError):
            run.remove(target)
        return False
    if run.stat(target).size == size:
        return True
    run.remove(target)
    return False
