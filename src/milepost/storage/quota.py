"""What a quota leaves to this user, where the kernel tells: `quota_left`.

The system call ``quotactl_fd`` (Linux 5.14) asks the file system of an open folder. Those that keep quotas on a server often show
them as free space already (NFS, project quotas of XFS); others have commands of their own (Lustre), which are not asked.
"""

from __future__ import annotations

import ctypes
import os

from milepost.storage.direct import libc_call

_QUOTACTL_FD = 443  # the same number on every architecture
_GET_QUOTA = 0x800007
_USER, _GROUP = 0, 1
_UNIT = 1024
_LIMITS, _USAGE = 0x1, 0x2


class _Quota(ctypes.Structure):
    """``struct if_dqblk`` of linux/quota.h: limits in units of 1024 bytes, 0 for none; what is used in bytes."""

    _fields_ = (
        ("hard", ctypes.c_uint64), ("soft", ctypes.c_uint64), ("used", ctypes.c_uint64),
        ("files_hard", ctypes.c_uint64), ("files_soft", ctypes.c_uint64), ("files", ctypes.c_uint64),
        ("time", ctypes.c_uint64), ("files_time", ctypes.c_uint64), ("valid", ctypes.c_uint32),
    )  # fmt: skip


def quota_left(folder: str) -> int | None:
    """Bytes that the quotas of this user, and of the group of `folder`, leave; None where there is none, or it cannot be read.

    The hard limit counts: the soft one may be exceeded for days.

    Raises:
        OSError: `folder` cannot be opened.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = [_left(fd, _USER, os.geteuid()), _left(fd, _GROUP, os.fstat(fd).st_gid)]
    finally:
        os.close(fd)
    return min((left for left in found if left is not None), default=None)


def _left(fd: int, kind: int, identity: int) -> int | None:
    quota = _Quota()
    try:
        libc_call("syscall", _QUOTACTL_FD, fd, (_GET_QUOTA << 8) | kind, identity, ctypes.byref(quota))
    except OSError:  # no quotas here (ESRCH), not known to this kernel or file system (ENOSYS), not to be asked (EPERM)
        return None
    if not quota.hard or quota.valid & (_LIMITS | _USAGE) != _LIMITS | _USAGE:
        return None
    return max(0, int(quota.hard) * _UNIT - int(quota.used))
