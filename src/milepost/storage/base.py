"""What milepost needs from a place that holds files: the contract every storage keeps.

Paths are relative to the storage's root, POSIX style, without ``.`` or ``..``. The contract is that of a POSIX file
system, no more:

* **Nothing is durable until it is synced.** A crash may lose, cut short or reorder whatever was not: the data of a file until
  `FileWriter.finish`, `write` or `append(sync=True)` returned; a name (created, linked, renamed, removed) until `sync_dir` of the
  folder that holds it returned.
* **Rename is atomic** for every reader and across a crash: the old name or the new one, never both or neither.
* **A sync that failed is never repeated** on the same file: the kernel may have dropped the dirty pages and report success the
  second time. The caller throws the file away and writes a new one.

Operations raise `OSError` with the errno of the system call, so that callers can tell ENOENT (fenced) from ENOSPC (make room);
the layers above turn them into milepost's own errors. `storage_error` does the wording, once.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from milepost.errors import DiskFullError, StorageError

BLOCK = 4096
"""Alignment in bytes of memory and file offsets that lets a storage skip the page cache."""

Buffer = memoryview | bytearray | bytes
Kind = Literal["file", "folder", "link"]


class Stat(NamedTuple):
    """What a name stands for. `identity` is equal for two names of the same file; `mtime` is in seconds since the epoch."""

    kind: Kind
    size: int
    mtime: float
    links: int
    identity: tuple[int, int]


class FileWriter(Protocol):
    """One new file being written. Exactly one of `finish` and `abort` ends it."""

    def write(self, data: Buffer, offset: int) -> None:
        """Write `data` at byte `offset`; any order, from one thread at a time. Whole `BLOCK`s at aligned offsets from aligned
        memory are fastest."""

    def finish(self, size: int) -> None:
        """Cut the file to `size` bytes, make it read-only and sync its data. Raises what the sync raised; the file must
        then be aborted, not finished again."""

    def abort(self) -> None:
        """Close and remove the file, whatever state it is in. Never raises for a file already gone."""


class Lock(Protocol):
    """A lock that ends with its process (or with `release`), however the process ends."""

    def release(self) -> None:
        """Give the lock back; twice is fine."""


@runtime_checkable
class Storage(Protocol):
    """A tree of files."""

    @property
    def root(self) -> str:
        """Where it is, for people: a path or a URL."""

    def child(self, path: str) -> Storage:
        """The same storage, rooted at folder `path` (which need not exist)."""

    # -- reading ------------------------------------------------------------------------------------------------------
    def stat(self, path: str) -> Stat:
        """What `path` stands for; a symbolic link is not followed. ENOENT where there is nothing."""

    def list(self, path: str = "") -> list[str]:
        """Names in folder `path`, sorted. ENOENT, ENOTDIR."""

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """At most `length` bytes from `offset` (all that is there if None); fewer only at the end of the file."""

    def read_into(self, path: str, offset: int, out: memoryview) -> int:
        """Fill `out` from byte `offset`; returns the number of bytes read, less than ``len(out)`` only at the end of
        the file. Skips the page cache where `offset` and the memory are aligned to `BLOCK`; `out` may then be longer than
        what is left in the file."""

    def read_link(self, path: str) -> str:
        """The target of symbolic link `path`."""

    # -- writing ------------------------------------------------------------------------------------------------------
    def make_root(self) -> None:
        """Make the root folder and those above it that are missing, durably (each new name is synced). Fine if it is there;
        ENOTDIR or EEXIST where a file is in the way."""

    def make_folder(self, path: str) -> None:
        """Make one folder. EEXIST, and ENOENT where its parent is missing: parents are never made along the way, since
        a parent that has gone is how a process learns that it was fenced."""

    def create(self, path: str, size: int) -> FileWriter:
        """Begin a new file of about `size` bytes, reserving the room at once where that is possible (ENOSPC). EEXIST."""

    def write(self, path: str, data: bytes, *, replace: bool = False) -> None:
        """Write a small file whole and sync its data. With `replace` an existing file is replaced atomically (a reader sees
        the old or the new bytes); without it EEXIST."""

    def append(self, path: str, data: bytes, *, sync: bool = False) -> None:
        """Append to a file, creating it. One call is one write, so that lines of several processes do not mix."""

    def touch(self, path: str) -> None:
        """Set the modification time to now, by the storage's own clock."""

    def sync_dir(self, path: str = "") -> None:
        """Make the names in folder `path` durable."""

    # -- names --------------------------------------------------------------------------------------------------------
    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder atomically. A file replaces a file; a folder replaces an empty folder only (ENOTEMPTY)."""

    def exchange(self, first: str, second: str) -> None:
        """Swap two names atomically. EINVAL or ENOSYS where that is not supported: the caller sets aside and renames."""

    def link(self, source: str, target: str) -> None:
        """Give file `source` a second name (hard link). EEXIST, ENOENT, EMLINK, EXDEV, EPERM, ENOTSUP."""

    def symlink(self, target: str, path: str) -> None:
        """Make `path` a symbolic link to `target` (relative to its folder), replacing an existing link atomically."""

    def remove(self, path: str) -> None:
        """Remove a file or link; ENOENT."""

    def remove_tree(self, path: str) -> None:
        """Remove a folder and all in it, or a file; what is already gone is fine. Links are removed, never followed."""

    # -- beside the tree ----------------------------------------------------------------------------------------------
    def lock(self, path: str) -> Lock | None:
        """Lock the existing file `path` against other processes and against other holders in this one; None if taken.
        Children made by fork do not hold it."""

    def locked(self, path: str) -> bool:
        """Whether somebody holds `lock(path)` (on this machine, or on another where the file system tells)."""

    def free_space(self) -> int:
        """Bytes this user may still write."""


TRANSIENT = frozenset({errno.EINTR, errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.ENOLCK})
"""Errors that a new attempt into a new file may not meet again (network file systems above all)."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that mean: no room."""


def storage_error(error: OSError, doing: str, where: object, *, hints: Iterable[tuple[int, str]] = ()) -> StorageError:
    """Word `error` for a person: what was being done, where, and what to try next.

    Args:
        error: what the storage raised; make it the ``__cause__`` of the result.
        doing: what failed, as in "cannot <doing>".
        where: the full path.
        hints: (errno, hint) pairs that override the general hints.
    """
    code = error.errno or 0
    general = {
        errno.EACCES: "check the permissions of the folder (milepost writes as you)",
        errno.EPERM: "check the permissions of the folder (milepost writes as you)",
        errno.EROFS: "the file system is mounted read-only; choose another run directory",
        errno.ENOTDIR: "a file is in the way of a folder; move it or choose another run directory",
        errno.ENOENT: "the folder above it does not exist",
        errno.EIO: "the disk or the network failed; run `milepost verify` on what is there",
    } | dict.fromkeys(FULL, "make room (`milepost prune --dry-run` shows what could go) or use another disk")
    kind = DiskFullError if code in FULL else StorageError
    return kind(
        f"cannot {doing}: {error.strerror or error}",
        where=where,
        hint=dict(hints).get(code, general.get(code)),
    )
