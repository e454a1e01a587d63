"""Storages that fail on purpose, wrapped around any other: `FaultyStorage`, and `NoSync`, which lies.

    >>> disk = MemoryStorage()
    >>> process = FaultyStorage(disk, [kill(on("rename"), after=True)])
    >>> save(process)  # raises Killed, as does everything that `process` is asked from then on
    >>> found = disk.crash(random.Random(0).randrange)  # what may be found if the power failed too

A run without faults gives the list of operations; a run for each of them, killed before it, covers every instant
between two operations at which a process can die.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from milepost.storage.direct import flat
from milepost.storage.local import temporary_name

if TYPE_CHECKING:
    from milepost.storage.base import Buffer, FileWriter, Lock, Stat, Storage

_T = TypeVar("_T")

CHANGES = frozenset(
    {
        "make_root", "make_folder", "create", "writer.write", "writer.finish", "writer.abort", "write", "append",
        "touch", "sync_dir", "rename", "exchange", "link", "symlink", "remove", "remove_tree", "lock", "lock.release",
    }
)  # fmt: skip
"""Names of the operations that change what others see; all others read."""


class Killed(BaseException):
    """The process is dead. Nothing may catch this, as nothing runs after SIGKILL."""


class Operation(NamedTuple):
    """One operation: its method (with ``writer.`` or ``lock.`` before those of what was handed out) and its paths."""

    name: str
    paths: tuple[str, ...]

    @property
    def changes(self) -> bool:
        """Whether it changes what others see."""
        return self.name in CHANGES


Where = int | Callable[[Operation], bool]
"""The number of an operation (from 0), or what is true of the operations that are meant."""


class Fault(NamedTuple):
    """What goes wrong, and where: an `OSError` with errno `code`, or death (None). Made by `fail` and `kill`."""

    where: Where
    code: int | None
    after: bool = False
    times: int | None = None


def fail(where: Where, code: int, *, after: bool = False, times: int | None = None) -> Fault:
    """An `OSError` with errno `code` before the operation, or after it was done; at most `times` (None: always)."""
    return Fault(where, code, after, times)


def kill(where: Where, *, after: bool = False) -> Fault:
    """Death before the operation, or after it was done."""
    return Fault(where, None, after)


def on(name: str, path: str = "*") -> Callable[[Operation], bool]:
    """Operations of this name on a path like this; both may be shell patterns, and ``*`` matches ``/`` too."""
    return lambda operation: (
        fnmatchcase(operation.name, name) and any(fnmatchcase(one, path) for one in operation.paths or ("",))
    )


class Wrapper:
    """A `milepost.storage.base.Storage` around another one, for subclasses to interfere with."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self._prefix = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._inner!r})"

    def _around(self, operation: Operation, call: Callable[[], _T]) -> _T:
        """Do `operation`, whose paths are relative to the outermost storage, by `call`. Every operation comes here."""
        return call()

    def _do(self, call: Callable[[], _T], name: str, *paths: str) -> _T:
        full = tuple("/".join(filter(None, (self._prefix, path))) for path in paths)
        return self._around(Operation(name, full), call)

    @property
    def root(self) -> str:
        """Where the inner storage is."""
        return self._inner.root

    def child(self, path: str) -> Self:
        """The same wrapper around the inner storage's child."""
        wrapper = copy.copy(self)
        wrapper._inner = self._inner.child(path)
        wrapper._prefix = "/".join(filter(None, (self._prefix, path)))
        return wrapper

    def stat(self, path: str) -> Stat:
        """As the inner storage, like all that follows."""
        return self._do(lambda: self._inner.stat(path), "stat", path)

    def list(self, path: str = "") -> list[str]:
        """As the inner storage."""
        return self._do(lambda: self._inner.list(path), "list", path)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the inner storage."""
        return self._do(lambda: self._inner.read(path, offset, length), "read", path)

    def read_into(self, path: str, offset: int, out: memoryview) -> int:
        """As the inner storage."""
        return self._do(lambda: self._inner.read_into(path, offset, out), "read_into", path)

    def read_link(self, path: str) -> str:
        """As the inner storage."""
        return self._do(lambda: self._inner.read_link(path), "read_link", path)

    def make_root(self) -> None:
        """As the inner storage."""
        self._do(self._inner.make_root, "make_root", "")

    def make_folder(self, path: str) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.make_folder(path), "make_folder", path)

    def create(self, path: str, size: int) -> FileWriter:
        """As the inner storage."""
        return self._do(lambda: _WrappedWriter(self, self._inner.create(path, size), path), "create", path)

    def write(self, path: str, data: bytes, *, replace: bool = False) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.write(path, data, replace=replace), "write", path)

    def append(self, path: str, data: bytes, *, sync: bool = False) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.append(path, data, sync=sync), "append", path)

    def touch(self, path: str) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.touch(path), "touch", path)

    def sync_dir(self, path: str = "") -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.sync_dir(path), "sync_dir", path)

    def rename(self, source: str, target: str) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.rename(source, target), "rename", source, target)

    def exchange(self, first: str, second: str) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.exchange(first, second), "exchange", first, second)

    def link(self, source: str, target: str) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.link(source, target), "link", source, target)

    def symlink(self, target: str, path: str) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.symlink(target, path), "symlink", path)

    def remove(self, path: str) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.remove(path), "remove", path)

    def remove_tree(self, path: str) -> None:
        """As the inner storage."""
        self._do(lambda: self._inner.remove_tree(path), "remove_tree", path)

    def lock(self, path: str) -> Lock | None:
        """As the inner storage."""
        return self._do(lambda: self._take(path), "lock", path)

    def _take(self, path: str) -> _WrappedLock | None:
        lock = self._inner.lock(path)
        return None if lock is None else _WrappedLock(self, lock, path)

    def locked(self, path: str) -> bool:
        """As the inner storage."""
        return self._do(lambda: self._inner.locked(path), "locked", path)

    def free_space(self) -> int:
        """As the inner storage."""
        return self._do(self._inner.free_space, "free_space", "")


class _WrappedWriter:
    def __init__(self, wrapper: Wrapper, inner: FileWriter, path: str) -> None:
        self._wrapper, self._inner, self._path = wrapper, inner, path
        self._ending = self._finished = False

    def write(self, data: Buffer, offset: int) -> None:
        self._check_open()
        self._wrapper._do(lambda: self._inner.write(data, offset), "writer.write", self._path)

    def finish(self, size: int) -> None:
        self._check_open()
        self._ending = True  # as a real file: a finish that failed (here: was made to) cannot be repeated
        self._wrapper._do(lambda: self._inner.finish(size), "writer.finish", self._path)
        self._finished = True

    def abort(self) -> None:
        self._wrapper._do(self._discard, "writer.abort", self._path)

    def _discard(self) -> None:
        if self._finished:
            return
        self._inner.abort()
        if self._ending:  # the inner file may be finished, and the caller was told otherwise
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._wrapper._inner.remove(self._path)

    def _check_open(self) -> None:
        if self._ending:
            raise OSError(errno.EBADF, "the file was finished, or failed to finish", self._path)


class _WrappedLock:
    def __init__(self, wrapper: Wrapper, inner: Lock, path: str) -> None:
        self._wrapper, self.inner, self._path = wrapper, inner, path

    def release(self) -> None:
        self._wrapper._do(self.inner.release, "lock.release", self._path)


class _Process:
    """What a `FaultyStorage` and all its children share: what was done, what goes wrong, and the end."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.guard = threading.Lock()
        self.faults = [(fault, [0]) for fault in faults]
        self.operations: list[Operation] = []
        self.locks: list[Lock] = []
        self.dead = False

    def begin(self, operation: Operation) -> list[Fault]:
        """Note `operation`; the faults that strike at it."""
        with self.guard:
            self.check_alive()
            number = len(self.operations)
            self.operations.append(operation)
            struck = []
            for fault, count in self.faults:
                here = fault.where == number if isinstance(fault.where, int) else fault.where(operation)
                if here and (fault.times is None or count[0] < fault.times):
                    count[0] += 1
                    struck.append(fault)
            return struck

    def strike(self, faults: Iterable[Fault], operation: Operation) -> None:
        self.check_alive()
        for fault in faults:
            if fault.code is None:
                self.dead = True
                for lock in self.locks:  # they end with their process
                    lock.release()
                raise Killed(f"at {operation.name} {' '.join(operation.paths)}")
            raise OSError(fault.code, f"{os.strerror(fault.code)} (on purpose)", *operation.paths[:1])

    def check_alive(self) -> None:
        if self.dead:
            raise Killed("a dead process does nothing more")


class FaultyStorage(Wrapper):
    """A process that uses storage `inner` and meets the faults of `plan`, which `fail` and `kill` make.

    Its children, writers and locks belong to it. Killed, it does nothing more and its locks are free; `inner` stays as
    it is, for the next process. Several around one `inner` are several processes.
    """

    def __init__(self, inner: Storage, plan: Iterable[Fault] = ()) -> None:
        super().__init__(inner)
        self._process = _Process(plan)

    @property
    def operations(self) -> list[Operation]:
        """All operations so far, reads too, in the order in which they began."""
        return list(self._process.operations)

    @property
    def dead(self) -> bool:
        """Whether it was killed."""
        return self._process.dead

    def _around(self, operation: Operation, call: Callable[[], _T]) -> _T:
        faults = self._process.begin(operation)
        self._process.strike([fault for fault in faults if not fault.after], operation)
        try:
            return call()
        finally:
            self._process.strike([fault for fault in faults if fault.after], operation)

    def _take(self, path: str) -> _WrappedLock | None:
        lock = super()._take(path)
        if lock is not None:
            self._process.locks.append(lock.inner)
        return lock


class NoSync(Wrapper):
    """A broken variant: says that it synced and never does. A test of durability that passes with it tests nothing.

    `append` is the one way the contract has to write without a sync, so all writing is done by it.
    """

    def create(self, path: str, size: int) -> FileWriter:
        """An empty file; its bytes are appended when it is finished."""
        self._append_new(path, b"")
        return _UnsyncedWriter(self._inner, path)

    def write(self, path: str, data: bytes, *, replace: bool = False) -> None:
        """As the contract has it, but for the sync."""
        if not replace:
            self._append_new(path, data)
            return
        temporary = "/".join([*path.split("/")[:-1], temporary_name()])
        self._inner.append(temporary, data)
        try:
            self._inner.rename(temporary, path)
        except BaseException:
            self._inner.remove(temporary)
            raise

    def append(self, path: str, data: bytes, *, sync: bool = False) -> None:
        """As the contract has it, but for the sync."""
        self._inner.append(path, data)

    def sync_dir(self, path: str = "") -> None:
        """Nothing, in a folder that exists."""
        self._inner.list(path)

    def _append_new(self, path: str, data: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._inner.stat(path)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._inner.append(path, data)


class _UnsyncedWriter:
    def __init__(self, inner: Storage, path: str) -> None:
        self._inner, self._path = inner, path
        self._data = bytearray()

    def write(self, data: Buffer, offset: int) -> None:
        view = flat(data)
        self._data.extend(bytes(max(0, offset + len(view) - len(self._data))))
        self._data[offset : offset + len(view)] = view

    def finish(self, size: int) -> None:
        self._inner.append(self._path, bytes(self._data[:size]).ljust(size, b"\0"))

    def abort(self) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._inner.remove(self._path)
