"""A storage in memory: `MemoryStorage`.

It keeps the contract of `milepost.storage.base` and promises nothing beyond it, so that code that is safe here is safe
on every POSIX file system. What `MemoryStorage.crash` may lose is described in `milepost.storage.disk`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

from milepost.storage.base import Buffer, Kind, Stat
from milepost.storage.direct import flat
from milepost.storage.disk import Choose, Disk, File, Folder, Link, Node, os_error
from milepost.storage.local import checked_path, temporary_name
from milepost.storage.memory_view import View, guarded


class _MemoryLock:
    def __init__(self, disk: Disk, file: File) -> None:
        self._disk, self._file = disk, file
        self._released = False

    @guarded
    def release(self) -> None:
        if not self._released:
            self._released = True
            self._disk.locked.discard(self._file)


class _MemoryWriter:
    def __init__(self, storage: MemoryStorage, disk: Disk, path: str, file: File) -> None:
        self._storage, self._disk, self._path, self._file = storage, disk, path, file
        self._ended = False

    @guarded
    def write(self, data: Buffer, offset: int) -> None:
        self._check_open()
        view, held = flat(data), self._file.data
        self._disk.make_room(self._file, offset + len(view), self._path)
        if len(view):
            held.extend(bytes(max(0, offset - len(held))))
            held[offset : offset + len(view)] = view

    @guarded
    def finish(self, size: int) -> None:
        self._check_open()
        file = self._file
        self._disk.make_room(file, size, self._path)
        file.data = file.data[:size] + bytes(max(0, size - len(file.data)))
        file.reserved = 0
        file.synced = bytes(file.data)
        file.read_only = True
        file.mtime = self._disk.clock()
        self._end()

    @guarded
    def abort(self) -> None:
        if not self._ended:
            self._end()
            self._storage._remove_if(self._path, self._file)

    def _check_open(self) -> None:
        if self._ended:
            raise os_error(errno.EBADF, self._path)

    def _end(self) -> None:
        self._ended = True
        self._disk.written.discard(self._file)


class MemoryStorage(View):
    """A `milepost.storage.base.Storage` in memory, for tests of what survives. Safe to use from several threads.

    `capacity` is the bytes that files may take in all (None: no limit) and may be changed at any time. `clock` gives
    the time of day in seconds.

        >>> storage = MemoryStorage()
        >>> storage.write("a", b"1")
        >>> storage.sync_dir()
        >>> storage.write("a", b"2", replace=True)
        >>> storage.crash(random.Random(0).randrange).read("a") in (b"1", b"2")
        True
    """

    def __init__(self, *, capacity: int | None = None, clock: Callable[[], float] = time.time) -> None:
        super().__init__(Disk(capacity, clock), "")

    @classmethod
    def _at(cls, disk: Disk, prefix: str) -> MemoryStorage:
        storage = cls.__new__(cls)
        View.__init__(storage, disk, prefix)
        return storage

    def __repr__(self) -> str:
        return f"<MemoryStorage {self.root}>"

    @guarded
    def crash(self, choose: Choose) -> MemoryStorage:
        """What could be found after power loss at this instant, as a new storage; this one is left as it is.

        ``choose(n)`` decides whatever is left to chance by a number from 0 to n - 1: ``random.Random(seed).randrange``,
        or a draw of a property test. 0 is the greatest loss.
        """
        return self._at(self._disk.after_power_loss(choose), self._prefix)

    @property
    def capacity(self) -> int | None:
        """Bytes that files may take in all."""
        return self._disk.capacity

    @capacity.setter
    def capacity(self, capacity: int | None) -> None:
        self._disk.capacity = capacity

    @property
    def root(self) -> str:
        """``memory:/`` and the folder's path."""
        return f"memory:/{self._prefix}"

    def child(self, path: str) -> MemoryStorage:
        """The same storage, rooted at folder `path`."""
        return self._at(self._disk, self._join(checked_path(path, root=True)))

    def _add(self, folder: Folder, name: str, node: Node) -> None:
        self._disk.change({(folder, name): node}, [folder])

    def _drop(self, folder: Folder, name: str) -> None:
        self._disk.change({(folder, name): None}, [folder])

    def _new(self) -> tuple[int, float]:
        return next(self._disk.numbers), self._disk.clock()

    # -- reading ------------------------------------------------------------------------------------------------------
    @guarded
    def stat(self, path: str) -> Stat:
        """What `path` stands for; a symbolic link is not followed."""
        node = self._node(path, root=True)
        kind: Kind = "file" if isinstance(node, File) else "link" if isinstance(node, Link) else "folder"
        size = len(node.data) if isinstance(node, File) else len(node.target) if isinstance(node, Link) else 0
        return Stat(kind, size, node.mtime, node.links, (id(self._disk), node.number))

    @guarded
    def list(self, path: str = "") -> list[str]:
        """Names in folder `path`, sorted."""
        return sorted(self._folder(path).names)

    @guarded
    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """At most `length` bytes from `offset` (all that is there if None)."""
        file = self._file(path)
        if offset < 0 or (length is not None and length < 0):
            raise os_error(errno.EINVAL, path)
        return bytes(file.data[offset : None if length is None else offset + length])

    def read_into(self, path: str, offset: int, out: memoryview) -> int:
        """Fill `out` from byte `offset`; the bytes read."""
        view = flat(out)
        data = self.read(path, offset, len(view))
        view[: len(data)] = data
        return len(data)

    @guarded
    def read_link(self, path: str) -> str:
        """The target of symbolic link `path`."""
        node = self._node(path)
        if not isinstance(node, Link):
            raise os_error(errno.EINVAL, path)
        return node.target

    # -- writing ------------------------------------------------------------------------------------------------------
    @guarded
    def make_root(self) -> None:
        """Make the root folder and those above it that are missing, durably."""
        top, made = self._at(self._disk, ""), ""
        for part in filter(None, self._prefix.split("/")):
            parent, made = made, f"{made}/{part}".lstrip("/")
            if top._walk(made, follow=True)[2] is None:
                top.make_folder(made)
                top.sync_dir(parent)
            top._folder(made)

    @guarded
    def make_folder(self, path: str) -> None:
        """Make one folder, never its parents."""
        self._add(*self._free_name(path), Folder(*self._new()))

    @guarded
    def create(self, path: str, size: int) -> _MemoryWriter:
        """Begin a new file of about `size` bytes."""
        folder, name = self._free_name(path)
        self._disk.make_room(None, size, path)
        file = File(*self._new())
        file.reserved = max(0, size)
        self._disk.written.add(file)
        self._add(folder, name, file)
        return _MemoryWriter(self, self._disk, path, file)

    @guarded
    def write(self, path: str, data: bytes, *, replace: bool = False) -> None:
        """Write a small file whole and sync its data; with `replace` atomically in place of an existing one."""
        folder, name, there = self._walk(path)
        if there is not None and not replace:
            raise os_error(errno.EEXIST, path)
        if isinstance(there, Folder):
            raise os_error(errno.EISDIR, path)
        self._disk.make_room(None, len(data), path)
        file = File(*self._new(), data)
        file.synced = bytes(data)
        self._add_or_replace(folder, name, file, replace=replace)

    def _add_or_replace(self, folder: Folder, name: str, node: Node, *, replace: bool) -> None:
        temporary = temporary_name() if replace else name
        self._add(folder, temporary, node)
        if replace:
            self._disk.change({(folder, temporary): None, (folder, name): node}, [folder])

    @guarded
    def append(self, path: str, data: bytes, *, sync: bool = False) -> None:
        """Append to a file, creating it."""
        folder, name, there = self._walk(path, follow=True)
        file = self._writable(path) if there is not None else File(*self._new())
        self._disk.make_room(file, len(file.data) + len(data), path)
        if there is None:
            self._add(folder, name, file)
        file.data += data
        file.mtime = self._disk.clock()
        if sync:
            file.synced = bytes(file.data)

    @guarded
    def touch(self, path: str) -> None:
        """Set the modification time to now."""
        self._node(path, follow=True).mtime = self._disk.clock()

    @guarded
    def sync_dir(self, path: str = "") -> None:
        """Make the names in folder `path` durable."""
        self._disk.sync(self._folder(path))

    # -- names --------------------------------------------------------------------------------------------------------
    @guarded
    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder atomically; nothing happens (as in POSIX) if both are names of one file."""
        node = self._node(source)
        old_folder, old_name, _ = self._walk(source)
        folder, name, there = self._walk(target)
        if there is node:
            return
        if isinstance(node, Folder):
            if node in folder.and_above():
                raise os_error(errno.EINVAL, source, target)
            if there is not None and not isinstance(there, Folder):
                raise os_error(errno.ENOTDIR, source, target)
            if there is not None and there.names:
                raise os_error(errno.ENOTEMPTY, source, target)
        elif isinstance(there, Folder):
            raise os_error(errno.EISDIR, source, target)
        self._disk.change({(old_folder, old_name): None, (folder, name): node}, [folder])

    @guarded
    def exchange(self, first: str, second: str) -> None:
        """Swap two names atomically."""
        one, two = self._node(first), self._node(second)
        (folder_one, name_one, _), (folder_two, name_two, _) = self._walk(first), self._walk(second)
        if one is two:
            return
        if one in folder_two.and_above() or two in folder_one.and_above():
            raise os_error(errno.EINVAL, first, second)
        self._disk.change({(folder_one, name_one): two, (folder_two, name_two): one}, [folder_one, folder_two])

    @guarded
    def link(self, source: str, target: str) -> None:
        """Give file `source` a second name."""
        node = self._node(source)
        folder, name = self._free_name(target)
        if isinstance(node, Folder):
            raise os_error(errno.EPERM, source, target)
        self._add(folder, name, node)

    @guarded
    def symlink(self, target: str, path: str) -> None:
        """Make `path` a symbolic link to `target`, in place of an existing link; EEXIST if `path` is no link."""
        folder, name, there = self._walk(path)
        if there is not None and not isinstance(there, Link):
            raise os_error(errno.EEXIST, path)
        self._add_or_replace(folder, name, Link(*self._new(), checked_path(target)), replace=True)

    @guarded
    def remove(self, path: str) -> None:
        """Remove a file or link."""
        node = self._node(path)
        if isinstance(node, Folder):
            raise os_error(errno.EISDIR, path)
        self._drop(*self._walk(path)[:2])

    def _remove_if(self, path: str, file: File) -> None:
        try:
            folder, name, there = self._walk(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        if there is file:
            self._drop(folder, name)

    @guarded
    def remove_tree(self, path: str) -> None:
        """Remove a folder and all in it, or a file; links are removed, never followed."""
        try:
            folder, name, node = self._walk(path)
        except FileNotFoundError:
            return
        if isinstance(node, Folder):
            for entry in sorted(node.names):
                self.remove_tree(f"{path}/{entry}")
        if node is not None:
            self._drop(folder, name)

    # -- beside the tree ----------------------------------------------------------------------------------------------
    @guarded
    def lock(self, path: str) -> _MemoryLock | None:
        """Lock file `path`; None if taken."""
        file = self._writable(path)
        if file in self._disk.locked:
            return None
        self._disk.locked.add(file)
        return _MemoryLock(self._disk, file)

    @guarded
    def locked(self, path: str) -> bool:
        """Whether somebody holds `lock(path)`."""
        return self._file(path) in self._disk.locked

    @guarded
    def free_space(self) -> int:
        """Bytes that may still be written."""
        return self._disk.free()
