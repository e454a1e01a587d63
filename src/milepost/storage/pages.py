"""Page-aligned host memory for reading and writing past the page cache."""

from __future__ import annotations

import contextlib
import ctypes
import mmap

from milepost.storage.base import BLOCK

_WIPE_ON_FORK = 18  # MADV_WIPEONFORK, Linux 4.14; not in `mmap`, like the next
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14
_TOUCH_BYTES = 4 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class Pages:
    """Page-aligned memory of at least `size` bytes, zero at first. `view` are its bytes, `address` is where they begin.

    The mapping is private, so that the kernel may back it with huge pages: 1.2 GB then cost 600 page faults rather
    than 300,000, and the device moves data in fewer pieces. Private memory must not be shared with a forked child while a
    device reads or writes it (open(2), O_DIRECT): data-loader workers fork at any time, so children find zeros there. The
    range itself stays theirs: were it left out of them, other memory would take its place, and go when this object does.
    """

    def __init__(self, size: int) -> None:
        self.size = -(-size // BLOCK) * BLOCK
        self._map = mmap.mmap(-1, max(self.size, BLOCK), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            self._map.madvise(_WIPE_ON_FORK)
        except OSError:  # before Linux 4.14: shared memory, which no fork copies, in small pages
            self._map = mmap.mmap(-1, max(self.size, BLOCK))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages: everything works the same, slower
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def touch(self) -> None:
        """Have the kernel back all of it now. Fresh memory takes 10 to 50 times as long to write as used memory."""
        for start in range(0, self.size, _TOUCH_BYTES):
            # By ctypes: `mmap.madvise` holds the interpreter lock for as long as it takes. In small parts: a thread cannot be
            # started meanwhile, as that needs memory, too.
            part = ctypes.c_size_t(min(_TOUCH_BYTES, self.size - start))
            if _libc.madvise(ctypes.c_void_p(self.address + start), part, _POPULATE_WRITE):
                return  # an older kernel: the first use is slower
