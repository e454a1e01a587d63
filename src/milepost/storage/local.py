"""Files on this machine, or on a network file system mounted here: `LocalStorage`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading

from milepost.storage.base import Kind, Lock, Stat
from milepost.storage.direct import DirectFile, DirectWriter, flat, libc_call
from milepost.storage.quota import quota_left

TEMPORARY = ".tmp-"
"""How names begin that exist while a file or link is replaced, and stay if process or machine die just then."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_FLOCK = "hhqqi4x"  # struct flock of fcntl(2): type, whence, start, length, pid
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def checked_path(path: str, *, root: bool = False) -> str:
    """`path`, if it stays inside a storage: relative, no NUL, no component that is empty, ``.`` or ``..``; else EINVAL.

    With `root` the path ``""`` is fine: the storage's root itself.
    """
    if root and path == "":
        return path
    if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise OSError(errno.EINVAL, "not a path inside the storage", path.replace("\0", "\\0"))
    return path


def temporary_name() -> str:
    """A name that no other process or thread will choose."""
    return TEMPORARY + os.urandom(8).hex()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class _HeldLock:
    """A lock this process holds; ``spare`` are further descriptors of the file, by how they were opened."""

    def __init__(self, identity: tuple[int, int], fd: int) -> None:
        self.identity = identity
        self.fd = fd
        self.spare: dict[int, list[int]] = {}

    def release(self) -> None:
        _locks.release(self)

    def close(self) -> None:
        for fd in [self.fd, *(fd for fds in self.spare.values() for fd in fds)]:
            os.close(fd)


class _LockTable:
    """The record locks of this process, and the opening and closing of files that must not lose them.

    POSIX record locks (``fcntl``) belong to a process. Locks of ``flock`` and of open file descriptions belong to the
    open file, which children made by fork share: data-loader workers that outlive a SIGKILLed trainer would keep its
    run locked.

    That has two traps. A process never meets its own locks, so this table refuses a second holder. And closing *any*
    descriptor of a file drops all locks the process has on it, so that descriptors of a locked file are not closed but
    kept for the next use, until the release.
    """

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self._held: dict[tuple[int, int], _HeldLock] = {}

    def open(self, path: str, flags: int) -> int:
        """Open a file that may be locked; mode 0o666 less umask where `flags` make it."""
        with self.guard:
            if self._held:
                with contextlib.suppress(OSError):  # what is wrong with the path, `os.open` says
                    held = self._held.get(_identity(os.stat(path)))
                    if held and held.spare.get(flags):
                        return held.spare[flags].pop()
        # Not guarded, as it may take long: a lock taken meanwhile is met by `close`.
        return os.open(path, flags | os.O_CLOEXEC, 0o666)

    def close(self, fd: int, flags: int = -1) -> None:
        """Close a descriptor opened with `flags`, or keep it while its file is locked."""
        with self.guard:
            held = self._held.get(_identity(os.fstat(fd))) if self._held else None
            if held is None:
                os.close(fd)
            else:
                held.spare.setdefault(flags, []).append(fd)

    def take(self, path: str) -> _HeldLock | None:
        with self.guard:
            fd = self.open(path, os.O_RDWR)
            identity = _identity(os.fstat(fd))
            if identity in self._held:
                self.close(fd, os.O_RDWR)
                return None
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                if error.errno in {errno.EACCES, errno.EAGAIN}:
                    return None
                raise
            lock = self._held[identity] = _HeldLock(identity, fd)
            return lock

    def taken(self, path: str) -> bool:
        with self.guard:
            fd = self.open(path, os.O_RDONLY)
            try:
                if _identity(os.fstat(fd)) in self._held:
                    return True
                question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                answer = fcntl.fcntl(fd, fcntl.F_GETLK, question)
                return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
            finally:
                self.close(fd, os.O_RDONLY)

    def release(self, lock: _HeldLock) -> None:
        with self.guard:
            if self._held.get(lock.identity) is lock:  # not after a fork: the child holds nothing
                del self._held[lock.identity]
                lock.close()

    def forget(self) -> None:
        """In a child made by fork: the parent holds the locks, and closing here does not touch them."""
        self.guard = threading.RLock()
        held, self._held = self._held, {}
        for lock in held.values():
            lock.close()


_locks = _LockTable()
os.register_at_fork(
    before=lambda: _locks.guard.acquire(),
    after_in_parent=lambda: _locks.guard.release(),
    after_in_child=_locks.forget,
)


class LocalStorage:
    """A folder of a POSIX file system as a `milepost.storage.base.Storage`.

    Files and folders are made for everyone whom umask lets use them, and the setgid bit of a folder is kept, so that a
    group can share one. Safe to use from several threads. `root` need not exist (`make_root`).

        >>> storage = LocalStorage("runs/mnist")
        >>> writer = storage.create("attempts/1.work/model.safetensors", size=len(image))
        >>> writer.write(image, 0)
        >>> writer.finish(len(image))
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(root)  # the training script may change its working directory later

    def __repr__(self) -> str:
        return f"LocalStorage({self._root!r})"

    @property
    def root(self) -> str:
        """The folder's absolute path."""
        return self._root

    def child(self, path: str) -> LocalStorage:
        """The same storage, rooted at folder `path`."""
        return LocalStorage(self._full(path, root=True))

    def _full(self, path: str, *, root: bool = False) -> str:
        return f"{self._root}/{path}" if checked_path(path, root=root) else self._root

    # -- reading ------------------------------------------------------------------------------------------------------
    def stat(self, path: str) -> Stat:
        """What `path` stands for; a symbolic link is not followed."""
        found = os.lstat(self._full(path, root=True))
        kind: Kind = "link" if stat.S_ISLNK(found.st_mode) else "folder" if stat.S_ISDIR(found.st_mode) else "file"
        return Stat(kind, found.st_size, found.st_mtime, found.st_nlink, _identity(found))

    def list(self, path: str = "") -> list[str]:
        """Names in folder `path`, sorted."""
        return sorted(os.listdir(self._full(path, root=True)))

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """At most `length` bytes from `offset` (all that is there if None), through the page cache."""
        fd = _locks.open(self._full(path), os.O_RDONLY)
        try:
            if length is None:
                length = max(0, os.fstat(fd).st_size - offset)
            parts = []
            while part := os.pread(fd, length, offset):
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
            return b"".join(parts)
        finally:
            _locks.close(fd, os.O_RDONLY)

    def read_into(self, path: str, offset: int, out: memoryview) -> int:
        """Fill `out` from byte `offset`, past the page cache where both are aligned to `BLOCK`; the bytes read.

        What `out` holds behind them is undefined: past the page cache, the kernel fills up the file's last block.
        """
        fd = _locks.open(self._full(path), os.O_RDONLY)
        file = DirectFile(fd)
        try:
            return file.read_into(flat(out), offset)
        finally:
            file.buffered()
            _locks.close(fd, os.O_RDONLY)

    def read_link(self, path: str) -> str:
        """The target of symbolic link `path`."""
        return os.readlink(self._full(path))

    # -- writing ------------------------------------------------------------------------------------------------------
    def make_root(self) -> None:
        """Make the root folder and those above it that are missing, and sync each new name."""
        missing = []
        folder = self._root
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            try:
                os.mkdir(folder)
            except FileExistsError:  # by another process, which may not have synced it yet; or a file is in the way
                if not os.path.isdir(folder):
                    raise
            _sync_folder(os.path.dirname(folder))

    def make_folder(self, path: str) -> None:
        """Make one folder, never its parents."""
        os.mkdir(self._full(path))

    def create(self, path: str, size: int) -> DirectWriter:
        """Begin a new file of about `size` bytes, which are reserved where the file system can."""
        return DirectWriter(self._full(path), size, _locks.close)

    def write(self, path: str, data: bytes, *, replace: bool = False) -> None:
        """Write a small file whole and sync its data; with `replace` atomically in place of an existing one."""
        full = self._full(path)
        target = os.path.join(os.path.dirname(full), temporary_name()) if replace else full
        fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            try:
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                _locks.close(fd)
            if replace:
                os.rename(target, full)
        except BaseException:
            with contextlib.suppress(OSError):  # the first failure is the one to tell
                os.unlink(target)
            raise

    def append(self, path: str, data: bytes, *, sync: bool = False) -> None:
        """Append to a file, creating it, by one write."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        fd = _locks.open(self._full(path), flags)
        try:
            _write_all(fd, data)
            if sync:
                os.fsync(fd)
        finally:
            _locks.close(fd, flags)

    def touch(self, path: str) -> None:
        """Set the modification time to now (the server's now, on a network file system)."""
        os.utime(self._full(path), None)

    def sync_dir(self, path: str = "") -> None:
        """Make the names in folder `path` durable."""
        _sync_folder(self._full(path, root=True))

    # -- names --------------------------------------------------------------------------------------------------------
    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder atomically."""
        try:
            os.rename(self._full(source), self._full(target))
        except FileExistsError as error:  # POSIX lets a file system say EEXIST for ENOTEMPTY, and XFS does
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), source, None, target) from error

    def exchange(self, first: str, second: str) -> None:
        """Swap two names atomically, by ``renameat2``; EINVAL or ENOSYS where kernel or file system cannot."""
        one, two = self._full(first), self._full(second)
        try:
            libc_call("renameat2", _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(two), _RENAME_EXCHANGE)
        except OSError as error:
            raise OSError(error.errno, error.strerror, one, None, two) from None

    def link(self, source: str, target: str) -> None:
        """Give file `source` a second name."""
        os.link(self._full(source), self._full(target))

    def symlink(self, target: str, path: str) -> None:
        """Make `path` a symbolic link to `target`, in place of an existing link; EEXIST if `path` is no link."""
        full = self._full(path)
        if os.path.lexists(full) and not os.path.islink(full):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), full)
        temporary = os.path.join(os.path.dirname(full), temporary_name())
        os.symlink(checked_path(target), temporary)
        try:
            os.rename(temporary, full)
        except BaseException:
            with contextlib.suppress(OSError):  # the first failure is the one to tell
                os.unlink(temporary)
            raise

    def remove(self, path: str) -> None:
        """Remove a file or link."""
        os.unlink(self._full(path))

    def remove_tree(self, path: str) -> None:
        """Remove a folder and all in it, or a file; links are removed, never followed."""
        _remove_tree(self._full(path), None)

    # -- beside the tree ----------------------------------------------------------------------------------------------
    def lock(self, path: str) -> Lock | None:
        """Lock file `path` (which this user may write); None if taken."""
        return _locks.take(self._full(path))

    def locked(self, path: str) -> bool:
        """Whether somebody holds `lock(path)`; nothing is taken to find out."""
        return _locks.taken(self._full(path))

    def free_space(self) -> int:
        """Bytes this user may still write, as far as the file system and the kernel's quotas tell."""
        status = os.statvfs(self._root)
        free, left = status.f_bavail * status.f_frsize, quota_left(self._root)
        return free if left is None else min(free, left)


def _write_all(fd: int, data: bytes) -> None:
    """Write by one call; a short one means that room is running out, which the second then says."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def _sync_folder(path: str) -> None:
    fd = os.open(path, _FOLDER)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: the file system (some network ones) has no such thing for folders
            raise
    finally:
        os.close(fd)


def _remove_tree(name: str, parent: int | None) -> None:
    try:
        fd = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in {errno.ENOTDIR, errno.ELOOP}:
            raise
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)
        return
    try:
        for entry in os.listdir(fd):
            _remove_tree(entry, fd)
    finally:
        os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)
