"""Moving bytes between memory and files past the page cache (``O_DIRECT``), at the speed of the device.

A file image is written once and read once, long after. Through the page cache it would be copied one time more, push
the training job's own files out of memory, and be flushed in small pieces by the sync. `O_DIRECT` needs memory, offset
and length aligned to `BLOCK`; whatever is not, and every file system that refuses, goes through the page cache: slower,
as right.

Memory for `O_DIRECT` should be a shared mapping (``mmap.mmap(-1, size)``): open(2) warns that a ``fork`` during a
direct transfer from or to private memory can corrupt it, and data-loader workers are forked while a save is in flight.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Callable

from milepost.storage.base import BLOCK, Buffer

CHUNK = 16 << 20
"""Bytes a system call moves at most: large enough to keep the device busy, small enough to be interrupted soon."""

_REFUSED = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
_LIBC = ctypes.CDLL(None, use_errno=True)


def libc_call(name: str, *arguments: object) -> None:
    """Call a function of the C library that returns 0 or sets errno, again after a signal.

    Raises `OSError` with that errno; ENOSYS where the library has no such function.
    """
    function = getattr(_LIBC, name, None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while function(*arguments) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def reserve(fd: int, size: int) -> None:
    """Reserve `size` bytes for an open file, where the file system can; ENOSPC and EDQUOT where there is no room.

    This is the system call: `os.posix_fallocate` writes zeros where the file system cannot reserve, doing all the work
    twice.
    """
    if size <= 0:
        return
    try:
        libc_call("fallocate", fd, 0, ctypes.c_int64(0), ctypes.c_int64(size))
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
            raise


def flat(data: Buffer) -> memoryview:
    """The bytes of `data` (contiguous memory of any item type), not copied."""
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(bytearray())


def address(view: memoryview) -> int:
    """Where the bytes of a flat, non-empty view begin in memory."""
    import numpy as np  # here, so that listing runs does without

    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])


class DirectFile:
    """An open descriptor that moves bytes past the page cache where it can, and through it where it must.

    `O_DIRECT` is set and cleared by ``fcntl`` on the one descriptor, call by call. Direct and buffered transfers of the
    same page may follow each other: the kernel writes back and drops the cached pages of a range before it goes past
    them. (``open`` with ``O_CREAT`` is no place to ask: a file system that refuses `O_DIRECT` says so after it made the
    file.)
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._direct = False
        self._refused = False

    def read_into(self, out: memoryview, offset: int) -> int:
        """Fill `out` from byte `offset`; the bytes read, fewer than ``len(out)`` only at the end of the file."""
        return self._transfer(lambda part, at: os.preadv(self.fd, [part], at), out, offset)

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at byte `offset`."""
        if self._transfer(lambda part, at: os.pwrite(self.fd, part, at), data, offset) < len(data):
            raise OSError(errno.EIO, "the file system took no more bytes and gave no reason")

    def buffered(self) -> None:
        """Leave the descriptor as one that goes through the page cache."""
        self._switch(direct=False)

    def _transfer(self, call: Callable[[memoryview, int], int], data: memoryview, offset: int) -> int:
        start = address(data) if data else 0
        done = 0
        while done < len(data):
            length = min(CHUNK, len(data) - done)
            # Judged anew for each call: after a short one the rest may not be aligned any more.
            aligned = length >= BLOCK and (start + done) % BLOCK == 0 and (offset + done) % BLOCK == 0
            direct = self._switch(direct=aligned and not self._refused)
            if direct:
                length -= length % BLOCK
            try:
                moved = call(data[done : done + length], offset + done)
            except OSError as error:
                if not direct or error.errno not in _REFUSED:
                    raise
                self._refused = True  # some file systems say so only at the first transfer
                continue
            if moved == 0:
                break
            done += moved
        return done

    def _switch(self, *, direct: bool) -> bool:
        """Set or clear `O_DIRECT`; whether it is set now."""
        if direct != self._direct:
            try:
                fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_DIRECT if direct else 0)
                self._direct = direct
            except OSError as error:
                if not direct or error.errno not in _REFUSED:
                    raise
                self._refused = True
        return self._direct


class DirectWriter:
    """One new file being written (`milepost.storage.base.FileWriter`).

    The file is made at `path` with mode 0o444: the descriptor that made it may write all the same, nobody else ever
    can, and the kernel applies umask, the folder's default permissions and its setgid bit, so that a shared group
    folder stays shared. `size` bytes are reserved; `close` is what closes the descriptor.
    """

    def __init__(self, path: str, size: int, close: Callable[[int], None] = os.close) -> None:
        self._path = path
        self._close = close
        self._ending = self._finished = False
        self._fd = -1
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444)
        self._file = DirectFile(self._fd)
        self._made = os.fstat(self._fd)
        try:
            reserve(self._fd, size)
        except BaseException:
            self.abort()
            raise

    def write(self, data: Buffer, offset: int) -> None:
        """Write `data` at byte `offset`; whole `BLOCK`s from aligned memory at aligned offsets skip the page cache."""
        self._check_open()
        self._file.write(flat(data), offset)

    def finish(self, size: int) -> None:
        """Cut the file to `size` bytes, sync it and close it."""
        self._check_open()
        self._ending = True  # once only: a sync that failed must not be asked again
        os.ftruncate(self._fd, size)
        os.fsync(self._fd)
        self._close_descriptor()
        self._finished = True

    def abort(self) -> None:
        """Close and remove the file, unless it is finished or another one has taken its name."""
        if self._finished:
            return
        with contextlib.suppress(OSError):  # the file is thrown away, whatever its last bytes met
            self._close_descriptor()
        try:
            if os.path.samestat(os.lstat(self._path), self._made):
                os.unlink(self._path)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}:
                raise

    def _check_open(self) -> None:
        if self._fd < 0 or self._ending:
            raise OSError(errno.EBADF, "the file was finished, aborted, or failed to finish", self._path)

    def _close_descriptor(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):  # dropped without an end: the file stays as it is, the descriptor must not
            self._close_descriptor()
