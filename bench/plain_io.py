"""The yardstick: as many bytes written and read by nothing but system calls, past the page cache.

    python bench/plain_io.py [--bytes 1181121984] [--repeat 5] [--folder .]

Written: `fallocate`, `pwrite` of 16 MiB blocks with O_DIRECT from memory that is there already, `fsync`, `close`. Read: `preadv` of
16 MiB blocks with O_DIRECT, (a) into 64 MiB of memory used over and over, which is what the disk can do, and (b) into memory fresh
from the kernel, which is what a process that has just started and wants to keep the bytes can do. Where the file system
refuses O_DIRECT both go through the page cache, and the page says so.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import mmap
import os
import statistics
import tempfile
import time
from pathlib import Path

BLOCK = 16 << 20
TURNS = 4
PAGE = 4096
HUGE_PAGES = 14  # MADV_HUGEPAGE, as milepost asks for its own memory
_LIBC = ctypes.CDLL(None, use_errno=True)


def direct(folder: Path) -> int:
    """`os.O_DIRECT` if files in `folder` may be opened with it, else 0."""
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        try:
            os.close(os.open(probe.name, os.O_WRONLY | os.O_DIRECT))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0
    return os.O_DIRECT


def drop_from_cache(path: Path) -> None:
    """Have the kernel forget the pages of a file that is on disk."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def write(path: Path, size: int) -> float:
    """Write a new file of `size` bytes (rounded up to whole pages); seconds until it is durable."""
    # Random bytes: a disk may be quick with zeros. From several blocks in turn, so that they do not all come from the cache.
    source = mmap.mmap(-1, TURNS * BLOCK)
    source.write(os.urandom(TURNS * BLOCK))
    view = memoryview(source)
    flag = direct(path.parent)
    begin = time.perf_counter()
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | flag, 0o644)
    _LIBC.fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size))  # a help only: some file systems cannot
    for offset in range(0, size, BLOCK):
        start = offset // BLOCK % TURNS * BLOCK
        length = min(BLOCK, -(-(size - offset) // PAGE) * PAGE)
        if os.pwrite(fd, view[start : start + length], offset) != length:
            raise OSError(0, "a short write", str(path))
    os.fsync(fd)
    os.close(fd)
    return time.perf_counter() - begin


def read(path: Path, *, keep: bool) -> float:
    """Read all of a file; seconds.

    Args:
        path: the file.
        keep: into fresh memory as large as the file, rather than into a little memory used over and over.
    """
    size = path.stat().st_size
    length = -(-size // BLOCK) * BLOCK if keep else TURNS * BLOCK
    room = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory gets no huge pages
    view = memoryview(room)
    if keep:
        address = ctypes.addressof(ctypes.c_char.from_buffer(room))
        _LIBC.madvise(ctypes.c_void_p(address), ctypes.c_size_t(len(room)), HUGE_PAGES)
    else:
        room.write(bytes(len(room)))
    drop_from_cache(path)
    flag = direct(path.parent)
    begin = time.perf_counter()
    fd = os.open(path, os.O_RDONLY | flag)
    for offset in range(0, size, BLOCK):
        start = offset if keep else offset // BLOCK % TURNS * BLOCK
        if os.preadv(fd, [view[start : start + BLOCK]], offset) < min(BLOCK, size - offset):
            raise OSError(0, "a short read", str(path))
    os.close(fd)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_181_121_984)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path())
    options = parser.parse_args()
    path = options.folder / "plain.bin"
    seconds: dict[str, list[float]] = {"write": [], "read": [], "read into fresh memory": []}
    for _ in range(options.repeat):
        try:
            seconds["write"].append(write(path, options.bytes))
            seconds["read"].append(read(path, keep=False))
            seconds["read into fresh memory"].append(read(path, keep=True))
        finally:
            path.unlink(missing_ok=True)
    for what, took in seconds.items():
        middle = statistics.median(took)
        print(f"{what}: {middle:.3f} s, {options.bytes / middle / 1e9:.2f} GB/s ({min(took):.3f} to {max(took):.3f} s)")


if __name__ == "__main__":
    main()
