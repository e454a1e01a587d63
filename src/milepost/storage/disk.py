"""A disk in memory that can lose its power: files, names, and what of them is durable. `MemoryStorage` is the face of it.

What power loss may take:

* **Data.** What was not synced of a file is lost, cut short, there, or there in part, with zeros or garbage between.
* **Names.** An operation on names is one change (two where something is made under a temporary name and then renamed),
  pending until a sync. Power loss keeps any subset of the pending changes in which each has those it builds on: earlier
  ones of the same name, and, when a folder moves, earlier moves of the folders above its new place (else two moves
  could put two folders into each other). Changes of different names are kept or lost whatever their order was.
* A change is kept or lost whole: **a rename is never half.**

Which sync makes a change durable: that of the folder that holds the name. For a rename it is the folder of the *new*
name: the sync a commit makes after it, and the weakest assumption that is enough. A sync of the old name's folder alone
promises nothing here. For an exchange it is either folder. Syncing a folder makes durable the names *in* it, never its
own name, and syncing a file's data never makes its name durable.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator

SECTOR = 512
"""Bytes that a disk writes whole or not at all."""

_UNLIMITED = 1 << 50

Choose = Callable[[int], int]
"""Chooses a number from 0 to below its argument: which of the things that may happen does."""


class File:
    """Bytes; `synced` is the part at the beginning that survives power loss."""

    def __init__(self, number: int, now: float, data: bytes = b"") -> None:
        self.number, self.mtime = number, now
        self.links = 0
        self.data = bytearray(data)
        self.synced = b""
        self.reserved = 0
        self.read_only = False

    def room(self) -> int:
        """Bytes it takes of the disk."""
        return max(len(self.data), self.reserved)

    def after_power_loss(self, choose: Choose) -> bytes:
        """What of its data may be left."""
        if self.synced == self.data:
            return self.synced
        rest = bytes(self.data[len(self.synced) :])
        how = choose(4)
        if how == 0:
            return self.synced
        if how == 1:
            return self.synced + rest[: choose(len(rest) + 1)]
        if how == 2:
            return bytes(self.data)
        sectors = [rest[start : start + SECTOR] for start in range(0, len(rest), SECTOR)]
        return self.synced + b"".join(
            (sector, bytes(len(sector)), b"\xa5" * len(sector))[choose(3)] for sector in sectors
        )


class Link:
    """A symbolic link."""

    def __init__(self, number: int, now: float, target: str) -> None:
        self.number, self.mtime = number, now
        self.links = 0
        self.target = target


class Folder:
    """Names as processes see them, and as they are on disk."""

    def __init__(self, number: int, now: float) -> None:
        self.number, self.mtime = number, now
        self.links = 0
        self.parent: Folder | None = None
        self.names: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}

    def and_above(self) -> Iterator[Node]:
        """It, and the folders it is in."""
        folder: Folder | None = self
        while folder is not None:
            yield folder
            folder = folder.parent


Node = File | Link | Folder
Entries = dict[tuple[Folder, str], Node | None]


class Change:
    """An operation on names that is not durable yet: what the names become, all or none."""

    def __init__(self, entries: Entries, synced_by: frozenset[Folder], needs: frozenset[Change]) -> None:
        self.entries, self.synced_by, self.needs = entries, synced_by, needs

    def moves(self, folders: set[Node]) -> bool:
        """Whether it is a rename or exchange of one of `folders`."""
        return len(self.entries) > 1 and not folders.isdisjoint(filter(None, self.entries.values()))


class Disk:
    """The tree that several `MemoryStorage` (roots, processes) look at."""

    def __init__(self, capacity: int | None, clock: Callable[[], float]) -> None:
        self.guard = threading.RLock()
        self.capacity, self.clock = capacity, clock
        self.numbers = itertools.count(1)
        self.root = Folder(next(self.numbers), clock())
        self.pending: list[Change] = []
        self.written: set[File] = set()  # by writers that have not ended
        self.locked: set[File] = set()

    def change(self, entries: Entries, synced_by: Iterable[Folder]) -> None:
        """Change names at once, and note that it is not durable."""
        above: set[Node] = set()
        for (folder, _), node in entries.items():
            if isinstance(node, Folder) and len(entries) > 1:
                above.update(folder.and_above())
        needs = frozenset(
            earlier
            for earlier in self.pending
            if not earlier.entries.keys().isdisjoint(entries) or earlier.moves(above)
        )
        self.pending.append(Change(entries, frozenset(synced_by), needs))
        for (folder, name), node in entries.items():
            before = folder.names.pop(name, None)
            if before is not None:
                before.links -= 1
            if node is not None:
                folder.names[name] = node
                node.links += 1
                if isinstance(node, Folder):
                    node.parent = folder
            folder.mtime = self.clock()

    def sync(self, folder: Folder) -> None:
        """Make durable what the sync of `folder` must, and what that builds on."""
        chosen: set[Change] = set()
        waiting = [change for change in self.pending if folder in change.synced_by]
        while waiting:
            change = waiting.pop()
            if change not in chosen:
                chosen.add(change)
                waiting.extend(change.needs)
        for change in self.pending:
            if change in chosen:
                for (changed, name), node in change.entries.items():
                    _put(changed.durable, name, node)
        self.pending = [change for change in self.pending if change not in chosen]
        for change in self.pending:
            change.needs -= chosen

    def after_power_loss(self, choose: Choose) -> Disk:
        how = choose(3)  # nothing that was pending, all of it, or each by itself
        kept: set[Change] = set()
        names: dict[Folder, dict[str, Node]] = {}
        for change in self.pending:
            if change.needs <= kept and (how == 1 or (how == 2 and choose(2))):
                kept.add(change)
                for (folder, name), node in change.entries.items():
                    _put(names.setdefault(folder, dict(folder.durable)), name, node)
        disk = Disk(self.capacity, self.clock)
        copies: dict[Node, Node] = {}

        def copy(node: Node) -> Node:
            if node in copies:
                return copies[node]  # another name of the same file
            number = next(disk.numbers)
            if isinstance(node, Link):
                return copies.setdefault(node, Link(number, node.mtime, node.target))
            if isinstance(node, File):
                file = File(number, node.mtime, node.after_power_loss(choose))
                file.synced, file.read_only = bytes(file.data), node.read_only
                return copies.setdefault(node, file)
            folder = Folder(number, node.mtime)
            copies[node] = folder
            fill(folder, node)
            return folder

        def fill(new: Folder, old: Folder) -> None:
            for name, node in sorted(names.get(old, old.durable).items()):
                made = copy(node)
                new.names[name] = new.durable[name] = made
                made.links += 1
                if isinstance(made, Folder):
                    made.parent = new

        fill(disk.root, self.root)
        return disk

    def free(self) -> int:
        if self.capacity is None:
            return _UNLIMITED
        files, waiting = set(self.written), [self.root]
        while waiting:
            for node in waiting.pop().names.values():
                if isinstance(node, Folder):
                    waiting.append(node)
                elif isinstance(node, File):
                    files.add(node)
        return max(0, self.capacity - sum(file.room() for file in files))

    def make_room(self, file: File | None, size: int, path: str) -> None:
        """ENOSPC unless `file` (None: a new one) can grow to `size` bytes."""
        if size - (file.room() if file is not None else 0) > self.free():
            raise os_error(errno.ENOSPC, path)


def _put(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def os_error(code: int, path: str, other: str | None = None) -> OSError:
    """The error of a system call."""
    return OSError(code, os.strerror(code), path, None, other)
