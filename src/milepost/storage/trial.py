"""Trying out what a file system can do of that which milepost builds on, in a folder that is removed again."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from milepost.storage.local import LocalStorage, temporary_name

MEMORY = frozenset({"tmpfs", "ramfs"})
NODE_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay"}) | MEMORY
"""File systems of one machine, as a rule: one that is exported to others has another type there."""
LAZY = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"})
"""Those on which a node may see what another did seconds later."""
SPEED_BYTES = 64 << 20


class Mount(NamedTuple):
    """Where a path is: the mount point and the type of its file system."""

    point: str
    type: str


class Trial(NamedTuple):
    """What a file system can do. `clock` is how far its clock is ahead of this machine's, `speed` what a synced file of 64 MiB came
    to, in bytes a second."""

    links: bool
    exchange: bool
    symlinks: bool
    locks: bool
    rename_replaces: bool
    free: int
    clock: float
    speed: float


def mount_of(path: Path, table: str | None = None) -> Mount:
    """The mount that `path` is on; `table` is as in ``/proc/self/mounts``, which is read if it is None.

    Example:
        >>> mount_of(Path("/home/me/runs"))
        Mount(point='/home', type='nfs4')
    """
    where = os.path.realpath(path)
    found = Mount("/", "unknown")
    for line in (Path("/proc/self/mounts").read_text() if table is None else table).splitlines():
        _, point, kind, *_ = line.split()
        point = point.encode().decode("unicode_escape")  # a space stands as \040
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found.point):  # a later mount on the same point hides the earlier
            found = Mount(point, kind)
    return found


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    path = Path(os.path.abspath(path))
    return next(one for one in (path, *path.parents) if one.is_dir())


def trial(folder: Path) -> Trial:
    """Try the file system out below `folder`, which must be there. Takes a moment, and 64 MiB of room meanwhile.

    Raises:
        OSError: nothing can be written there.
    """
    outer = LocalStorage(folder)
    name = temporary_name()
    outer.make_folder(name)
    try:
        return _try(outer.child(name))
    finally:
        outer.remove_tree(name)


def _try(storage: LocalStorage) -> Trial:
    storage.write("a", b"a")
    storage.write("b", b"b")
    began = time.time()
    storage.touch("a")
    clock = storage.stat("a").mtime - (began + time.time()) / 2
    storage.rename("b", "a")
    replaces = storage.read("a") == b"b" and storage.list() == ["a"]
    storage.write("b", b"b")
    result = Trial(
        links=_can(lambda: storage.link("a", "c")),
        exchange=_can(lambda: storage.exchange("a", "b")),
        symlinks=_can(lambda: storage.symlink("a", "d")),
        locks=_can(lambda: _lock(storage)),
        rename_replaces=replaces,
        free=storage.free_space(),
        clock=clock,
        speed=0.0,
    )
    return result._replace(speed=_speed(storage))


def _can(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return False
    return True


def _lock(storage: LocalStorage) -> None:
    held = storage.lock("a")
    if held is not None:
        held.release()


def _speed(storage: LocalStorage) -> float:
    block = memoryview(os.urandom(1 << 20))
    began = time.perf_counter()
    writer = storage.create("speed", SPEED_BYTES)
    try:
        for offset in range(0, SPEED_BYTES, len(block)):
            writer.write(block, offset)
        writer.finish(SPEED_BYTES)
    except BaseException:
        with contextlib.suppress(OSError):
            writer.abort()
        raise
    return SPEED_BYTES / (time.perf_counter() - began)
