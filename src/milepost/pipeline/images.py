"""Host memory that a state is staged into: the image of each file, page-aligned, reused from save to save."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milepost.core.adapter import GoneError, LeafInfo, TensorAdapter
from milepost.core.boxes import Box
from milepost.core.layout import Layout, overlaps
from milepost.folder.snapshot import IO_BLOCK, Piece, TornSnapshot
from milepost.storage.base import BLOCK
from milepost.storage.pages import Pages


@dataclass(slots=True)
class Leaf:
    """A live tensor on its way into a file: its path, what it is, and whether it may be read after the save call has returned
    (`deferred`, because something holds back whatever would change it). Of a tensor that is divided over processes `value` is the
    part `box`."""

    path: str
    value: object
    adapter: TensorAdapter
    info: LeafInfo
    trained: bool = False
    deferred: bool = False
    box: Box | None = None


class Pool:
    """Pages that is handed out by name and kept for the next time: one block per file, never two of a name at once."""

    def __init__(self) -> None:
        self._held: dict[str, Pages] = {}

    def take(self, name: str, size: int) -> Pages:
        """Pages of at least `size` bytes, the same as last time if it still fits and is not wastefully large."""
        held = self._held.get(name)
        if held is None or not size <= held.size <= 2 * size + IO_BLOCK:
            held = self._held[name] = Pages(size)
        return held

    def forget(self, names: Sequence[str]) -> None:
        """Give back the memory of all but `names`."""
        self._held = {name: memory for name, memory in self._held.items() if name in names}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(memory.size for memory in self._held.values())


class Image:
    """The image of one file in memory: written front to back by the stager, read front to back by the writer, at the same time.
    Implements `milepost.folder.snapshot.StagedFile`.

    Args:
        item: the item it holds.
        layout: the file.
        leaves: the live tensor for each entry of the layout.
        memory: where the image goes.
    """

    def __init__(self, item: str, layout: Layout, leaves: Sequence[Leaf], memory: Pages) -> None:
        self.item, self.layout, self.leaves, self.memory = item, layout, leaves, memory
        self.pieces = tuple(Piece(leaf.path, leaf.box) for leaf in leaves)
        self._staged = 0
        self._problem: BaseException | None = None
        self._change = threading.Condition()

    def begin(self) -> None:
        """Write the header and every leaf that cannot wait; count what is final from the start of the file."""
        header = self.layout.header
        self.memory.view[: len(header)] = header
        # The last block is written whole: what stands behind the end of the file must not be an earlier, longer image.
        padded = -(-self.layout.size // BLOCK) * BLOCK
        self.memory.view[self.layout.size : padded] = bytes(padded - self.layout.size)
        first_deferred = self.layout.size
        for leaf, entry in zip(self.leaves, self.layout.entries, strict=True):
            if leaf.deferred:
                first_deferred = min(first_deferred, entry.offset)
            else:
                self._copy(leaf, entry.offset)
        self._advance(first_deferred)

    def stage(self) -> None:
        """Copy the deferred leaves, front to back."""
        entries = self.layout.entries
        deferred = [index for index, leaf in enumerate(self.leaves) if leaf.deferred]
        final = [entries[index].offset for index in deferred] + [self.layout.size]
        for number, index in enumerate(deferred):
            self._copy(self.leaves[index], entries[index].offset)
            self._advance(final[number + 1])

    def _copy(self, leaf: Leaf, offset: int) -> None:
        info = leaf.info
        if info.address is not None:
            ctypes.memmove(self.memory.address + offset, info.address, info.nbytes)
        elif info.nbytes:
            _copied(leaf, self.memory.view[offset : offset + info.nbytes])
        leaf.value = None  # what was copied may be freed

    def _advance(self, final: int) -> None:
        # The writer looks at whole blocks: waking it for every small tensor would only take the interpreter from the trainer.
        if final // IO_BLOCK > self._staged // IO_BLOCK or final == self.layout.size:
            with self._change:
                self._staged = final
                self._change.notify_all()

    def give_up(self, problem: BaseException) -> None:
        """Mark the image as one that will never be whole, and say why."""
        with self._change:
            self._problem = problem
            self._change.notify_all()

    def blocks(self) -> Iterator[tuple[int, memoryview]]:
        """See `StagedFile.blocks`."""
        size = self.layout.size
        for offset in range(0, size, IO_BLOCK):
            needed = min(offset + IO_BLOCK, size)
            with self._change:
                self._change.wait_for(lambda needed=needed: self._problem or self._staged >= needed)  # type: ignore[misc]
                if self._problem is not None:
                    raise self._problem
            yield offset, self.memory.view[offset : -(-needed // BLOCK) * BLOCK]


class Stream:
    """The image of one file that is never whole in memory: made block by block from the live tensors while the trainer waits.
    Implements `milepost.folder.snapshot.StagedFile`."""

    BLOCKS = 3

    def __init__(self, item: str, layout: Layout, leaves: Sequence[Leaf], memory: Pages) -> None:
        assert memory.size >= self.BLOCKS * IO_BLOCK
        self.item, self.layout, self.leaves, self.memory = item, layout, leaves, memory
        self.pieces = tuple(Piece(leaf.path, leaf.box) for leaf in leaves)

    def blocks(self) -> Iterator[tuple[int, memoryview]]:
        """See `StagedFile.blocks`."""
        header, size = self.layout.header, self.layout.size
        first = 0
        for number, offset in enumerate(range(0, size, IO_BLOCK)):
            stop = min(offset + IO_BLOCK, size)
            base = (number % self.BLOCKS) * IO_BLOCK
            block = self.memory.view[base : base + IO_BLOCK]
            if offset < len(header):
                part = header[offset:stop]
                block[: len(part)] = part
            found, first = overlaps(self.layout.entries, first, offset, stop)
            for index, low, high in found:
                entry = self.layout.entries[index]
                self._copy_part(self.leaves[index], low - entry.offset, block[low - offset : high - offset])
            yield offset, block[: -(-(stop - offset) // BLOCK) * BLOCK]

    def _copy_part(self, leaf: Leaf, start: int, out: memoryview) -> None:
        info = leaf.info
        if info.address is not None:
            target = ctypes.addressof(ctypes.c_char.from_buffer(out))
            ctypes.memmove(target, info.address + start, len(out))
        elif start == 0 and len(out) == info.nbytes:
            _copied(leaf, out)
        elif not leaf.adapter.copy_part(leaf.value, start, out):
            whole = bytearray(info.nbytes)  # one tensor that is not in C order, across the edge of a block
            _copied(leaf, memoryview(whole))
            out[:] = memoryview(whole)[start : start + len(out)]


def _copied(leaf: Leaf, out: memoryview) -> None:
    try:
        leaf.adapter.copy(leaf.value, out)
    except GoneError as gone:
        raise TornSnapshot(f"{leaf.path} {gone}") from None
