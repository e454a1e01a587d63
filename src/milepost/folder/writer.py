"""Writes the files of one checkpoint: digest, compare, link or write.

An item of which nothing changed is linked whole; one of which a part changed is linked and the changed part written
beside it; else it
is written. Writing starts while the image is still being staged, unless the last saves say that much of it will be linked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from milepost.core.digest import Checker, file_digest
from milepost.core.layout import Entry, Layout, overlaps, plan
from milepost.core.manifest import File, Shard
from milepost.folder import names
from milepost.folder.sharing import Base, Reuse, reuse, try_link
from milepost.folder.snapshot import IO_BLOCK, Piece, StagedFile
from milepost.folder.worker import Task, Worker
from milepost.storage.base import BLOCK, Storage
from milepost.storage.pages import Pages


class Written(NamedTuple):
    """The files that hold the pieces of one item, and where they are in them. `new_bytes` excludes what was linked."""

    files: dict[str, File]
    shards: dict[Piece, Shard]
    new_bytes: int


class ItemWriter:
    """Writes items into checkpoint folders of one run; keeps what it learned about how much of each item changes.

    One thread at a time.
    """

    def __init__(self, run: Storage) -> None:
        self._run = run
        self._mostly_changes: dict[str, bool] = {}
        # Writing a block and reading the next one for its digest overlap: both leave the interpreter alone meanwhile.
        self._pool = Worker("milepost-write")

    def close(self) -> None:
        """End the writing thread."""
        self._pool.close()

    def write(self, folder: str, stem: str, file: StagedFile, base: Base | None) -> Written:
        """Write one item into `folder` (relative to the run), linking to `base` where nothing changed.

        Raises:
            OSError: the storage refused; the folder then holds an incomplete item and must be thrown away.
            TornSnapshot: the staged bytes will never be complete.
        """
        whole = stem + names.SUFFIX
        comparable = base is not None and any(piece.path in base.manifest.tensors for piece in file.pieces)
        checkers = [Checker(entry.dtype) for entry in file.layout.entries]
        if not comparable or self._mostly_changes.get(file.item, False):
            # Expected to be written whole: do not wait for the last byte before writing the first.
            self._write_image(f"{folder}/{whole}", file.layout, _checked(file, checkers))
            found = reuse(base, file.pieces, file.layout.entries, [checker.digest() for checker in checkers])
            if comparable:  # the first save has nothing to learn from
                self._mostly_changes[file.item] = _mostly_changes(file.layout, found)
            if found.rest or not found.linked:
                return self._whole(whole, file, checkers)
            self._run.remove(f"{folder}/{whole}")
        else:
            for _ in _checked(file, checkers):
                pass
            found = reuse(base, file.pieces, file.layout.entries, [checker.digest() for checker in checkers])
            self._mostly_changes[file.item] = _mostly_changes(file.layout, found)
        if base is not None and found.linked:
            linked = self._link(folder, stem, file, base, found, checkers)
            if linked is not None:
                return linked
        self._write_image(f"{folder}/{whole}", file.layout, file.blocks())
        return self._whole(whole, file, checkers)

    def _whole(self, name: str, file: StagedFile, checkers: Sequence[Checker]) -> Written:
        layout = file.layout
        shards = {
            piece: _shard(piece, name, entry, checker)
            for piece, entry, checker in zip(file.pieces, layout.entries, checkers, strict=True)
        }
        entry = File(layout.size, file_digest(layout.header, [shard.digest for shard in shards.values()]), layout.plain)
        return Written({name: entry}, shards, layout.size)

    def _link(
        self, folder: str, stem: str, file: StagedFile, base: Base, found: Reuse, checkers: Sequence[Checker]
    ) -> Written | None:
        """Link what did not change and write the rest beside it; None if linking is not possible here."""
        whole = stem + names.SUFFIX
        # A file keeps the plain name only if it is, byte for byte, what would be written: its header names tied tensors, too.
        as_written = file_digest(file.layout.header, [checker.digest() for checker in checkers])
        files: dict[str, File] = {}
        shards: dict[Piece, Shard] = {}
        for source, kept in found.linked.items():
            old = base.manifest.files[source]
            current = source == whole and old.digest == as_written
            target = whole if current else names.part(stem, len(files))
            if not try_link(self._run, f"{base.folder}/{source}", f"{folder}/{target}", old.size):
                for name in files:
                    self._run.remove(f"{folder}/{name}")
                return None
            files[target] = File(old.size, old.digest, old.plain and current)
            shards |= {piece: msgspec.structs.replace(shard, file=target) for piece, shard in kept.items()}
        written = 0
        if found.rest:
            target = names.part(stem, len(files))
            entries = [file.layout.entries[index] for index in found.rest]
            layout = plan((entry.key, entry.dtype, entry.shape) for entry in entries)
            self._write_image(f"{folder}/{target}", layout, _gather(file, entries, layout))
            rest = {
                file.pieces[index]: _shard(file.pieces[index], target, file.layout.entries[index], checkers[index])
                for index in found.rest
            }
            files[target] = File(layout.size, file_digest(layout.header, [shard.digest for shard in rest.values()]))
            shards |= rest
            written = layout.size
        return Written(files, {piece: shards[piece] for piece in file.pieces}, written)

    def _write_image(self, path: str, layout: Layout, blocks: Iterator[tuple[int, memoryview]]) -> None:
        writer = self._run.create(path, layout.size)
        pending: Task[None] | None = None
        try:
            for offset, block in blocks:
                if pending is not None:
                    pending.result()
                pending = self._pool.submit(writer.write, block, offset)
            if pending is not None:
                pending.result()
            writer.finish(layout.size)
        except BaseException:
            if pending is not None:
                pending.wait()  # the block in flight must not outlive the file
            writer.abort()
            raise


def write_read_only(run: Storage, path: str, data: bytes) -> None:
    """Write a small file that nobody is to change, synced."""
    writer = run.create(path, len(data))
    try:
        writer.write(data, 0)
        writer.finish(len(data))
    except BaseException:
        writer.abort()
        raise


def _shard(piece: Piece, file: str, entry: Entry, checker: Checker) -> Shard:
    offset, shape = piece.box or (None, None)
    return Shard(file, entry.key, checker.digest(), checker.finite, offset, shape)


def _mostly_changes(layout: Layout, found: Reuse) -> bool:
    changed = sum(layout.entries[index].nbytes for index in found.rest)
    return 2 * changed > layout.size - len(layout.header)


def _checked(file: StagedFile, checkers: Sequence[Checker]) -> Iterator[tuple[int, memoryview]]:
    """Pass the blocks of `file` on, feeding each entry's bytes to its checker on the way."""
    first = 0
    for offset, block in file.blocks():
        found, first = overlaps(file.layout.entries, first, offset, offset + len(block))
        for index, low, high in found:
            checkers[index].update(block[low - offset : high - offset])
        yield offset, block


def _gather(file: StagedFile, entries: Sequence[Entry], layout: Layout) -> Iterator[tuple[int, memoryview]]:
    """The blocks of a smaller image `layout` that holds only `entries` of `file`. Both keep the same order, so one pass does."""
    out = _Blocks()
    yield from out.put(memoryview(layout.header))
    first = 0
    for offset, block in file.blocks():
        found, first = overlaps(entries, first, offset, offset + len(block))
        for _, low, high in found:
            yield from out.put(block[low - offset : high - offset])
    yield from out.flush()


class _Blocks:
    """Gathers bytes into aligned blocks, three in turn: one being filled, one handed out, one still being written."""

    def __init__(self) -> None:
        self._memory = [Pages(IO_BLOCK).view for _ in range(3)]
        self._turn = 0
        self._filled = 0
        self._offset = 0

    def put(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        while len(data):
            room = min(len(data), IO_BLOCK - self._filled)
            self._memory[self._turn][self._filled : self._filled + room] = data[:room]
            self._filled += room
            data = data[room:]
            if self._filled == IO_BLOCK:
                yield from self.flush()

    def flush(self) -> Iterator[tuple[int, memoryview]]:
        if self._filled:
            length = -(-self._filled // BLOCK) * BLOCK
            yield self._offset, self._memory[self._turn][:length]
            self._offset += self._filled
            self._turn = (self._turn + 1) % 3
            self._filled = 0
