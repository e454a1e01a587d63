"""What is `LocalStorage`'s own: the page cache left aside, failures of system calls, permissions, descriptors."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import os
import random
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from milepost.storage import BLOCK, LocalStorage, Storage
from milepost.storage import direct as direct_module
from milepost.storage.direct import CHUNK, address, libc_call
from milepost.storage.local import TEMPORARY

Memory = Callable[[int], memoryview]


def os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


# -- past the page cache ----------------------------------------------------------------------------------------------
class Kernel:
    """A kernel that takes `O_DIRECT` from everybody, insists on alignment, and notes what it is asked for.

    It stands before the real one, so that these tests ask the same of every file system. ``limit`` may cut a transfer
    short, ``refuse`` may refuse it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.direct: set[int] = set()
        self.calls: list[tuple[str, bool, int]] = []
        self.limit: Callable[[int], int] = lambda length: length
        self.refuse: Callable[[bool], bool] = lambda direct: False
        self._fcntl, self._pwrite, self._preadv = fcntl.fcntl, os.pwrite, os.preadv
        monkeypatch.setattr(fcntl, "fcntl", self.fcntl)
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(os, "preadv", self.preadv)

    def fcntl(self, fd: int, command: int, argument: int | bytes = 0) -> int | bytes:
        if command != fcntl.F_SETFL:
            return self._fcntl(fd, command, argument)
        assert isinstance(argument, int)
        (self.direct.add if argument & os.O_DIRECT else self.direct.discard)(fd)
        return 0

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        return self._pwrite(fd, data[: self._checked("write", fd, data, offset)], offset)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        (data,) = buffers
        return self._preadv(fd, [data[: self._checked("read", fd, data, offset)]], offset)

    def _checked(self, name: str, fd: int, data: memoryview, offset: int) -> int:
        direct = fd in self.direct
        self.calls.append((name, direct, len(data)))
        if direct and (address(data) % BLOCK or offset % BLOCK or len(data) % BLOCK):
            raise os_error(errno.EINVAL)
        if self.refuse(direct):
            raise os_error(errno.EINVAL)
        return self.limit(len(data))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def write(storage: Storage, path: str, data: memoryview) -> None:
    writer = storage.create(path, len(data))
    writer.write(data, 0)
    writer.finish(len(data))


def test_all_but_the_tail_skips_the_page_cache(kernel: Kernel, local: LocalStorage, aligned: Memory) -> None:
    data = aligned(2 * CHUNK + 3 * BLOCK + 5)
    lengths = [(True, CHUNK), (True, CHUNK), (True, 3 * BLOCK), (False, 5)]
    write(local, "file", data)
    assert kernel.calls == [("write", direct, length) for direct, length in lengths]
    kernel.calls.clear()
    out = aligned(len(data))
    assert local.read_into("file", 0, out) == len(data)
    assert kernel.calls == [("read", direct, length) for direct, length in lengths]
    assert out == data
    assert kernel.direct == set()


def test_a_rounded_buffer_skips_the_page_cache_to_the_end(kernel: Kernel, local: LocalStorage, aligned: Memory) -> None:
    data, size = aligned(5 * BLOCK), 4 * BLOCK + 5
    writer = local.create("file", size)
    writer.write(data, 0)
    writer.finish(size)
    assert kernel.calls == [("write", True, 5 * BLOCK)]
    out = aligned(5 * BLOCK)
    assert local.read_into("file", 0, out) == size
    assert kernel.calls[1] == ("read", True, 5 * BLOCK)
    assert out[:size] == data[:size]


def test_what_is_not_aligned_goes_through_the_page_cache(kernel: Kernel, local: LocalStorage, aligned: Memory) -> None:
    writer = local.create("file", 4 * BLOCK)
    writer.write(aligned(BLOCK + 1)[1:], 0)
    writer.write(aligned(BLOCK), 100)
    writer.write(aligned(BLOCK - 1), BLOCK)
    writer.write(aligned(2 * BLOCK), 2 * BLOCK)  # aligned again
    writer.finish(4 * BLOCK)
    assert [direct for _, direct, _ in kernel.calls] == [False, False, False, True]


def test_a_file_system_that_refuses_at_the_first_transfer(kernel: Kernel, local: LocalStorage, aligned: Memory) -> None:
    kernel.refuse = lambda direct: direct
    data = aligned(2 * CHUNK)
    write(local, "file", data)
    assert [direct for _, direct, _ in kernel.calls] == [True, False, False]  # asked once
    out = aligned(len(data))
    out[:] = bytes(len(out))
    assert local.read_into("file", 0, out) == len(data)
    assert out == data


def test_a_refusal_without_direct_transfer_is_an_error(kernel: Kernel, local: LocalStorage, aligned: Memory) -> None:
    kernel.refuse = lambda direct: True
    writer = local.create("file", BLOCK)
    with pytest.raises(OSError, match="Invalid argument"):
        writer.write(aligned(BLOCK), 0)
    writer.abort()
    assert local.list() == []


@pytest.mark.parametrize("seed", range(8))
def test_short_transfers(kernel: Kernel, local: LocalStorage, aligned: Memory, seed: int) -> None:
    choose = random.Random(seed)
    kernel.limit = lambda length: choose.choice([length, min(length, 1 + choose.randrange(3 * BLOCK))])
    data = aligned(20 * BLOCK + 17)
    write(local, "file", data)
    assert Path(local.root, "file").read_bytes() == data
    out = aligned(len(data) + BLOCK)
    assert local.read_into("file", 0, out) == len(data)
    assert out[: len(data)] == data
    assert any(direct for _, direct, _ in kernel.calls)


def test_a_write_that_makes_no_progress_is_an_error(kernel: Kernel, local: LocalStorage, aligned: Memory) -> None:
    kernel.limit = lambda length: 0
    writer = local.create("file", BLOCK)
    with pytest.raises(OSError, match="no more bytes") as caught:
        writer.write(aligned(BLOCK), 0)
    assert caught.value.errno == errno.EIO


def test_a_full_disk_in_the_midst(
    local: LocalStorage, aligned: Memory, monkeypatch: pytest.MonkeyPatch, kernel: Kernel
) -> None:
    left = [2 * BLOCK]

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if not left[0]:
            raise os_error(errno.ENOSPC)
        written = kernel.pwrite(fd, data[: left[0]], offset)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    writer = local.create("file", 8 * BLOCK)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        writer.write(aligned(8 * BLOCK), 0)
    writer.abort()
    assert local.list() == []


# -- reserving room ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_cannot_reserve(local: LocalStorage, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    asked: list[tuple[object, ...]] = []

    def call(name: str, fd: int, mode: int, offset: ctypes.c_int64, size: ctypes.c_int64) -> None:
        asked.append((name, mode, offset.value, size.value))
        raise os_error(code)

    monkeypatch.setattr(direct_module, "libc_call", call)
    monkeypatch.delattr(os, "posix_fallocate")  # which would write zeros
    write(local, "file", memoryview(b"abc"))
    assert asked == [("fallocate", 0, 0, 3)]
    assert local.read("file") == b"abc"
    write(local, "empty", memoryview(b""))
    assert len(asked) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_no_room_to_reserve(local: LocalStorage, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def call(name: str, *arguments: object) -> None:
        raise os_error(code)

    monkeypatch.setattr(direct_module, "libc_call", call)
    with pytest.raises(OSError, match=os.strerror(code)):
        local.create("file", 3)
    assert local.list() == []


def test_calls_to_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        answers: Iterator[int] = iter([errno.EINTR, errno.EINTR, 0, errno.EINTR, errno.ENOSPC])

        def fallocate(self, *arguments: object) -> int:
            code = next(self.answers)
            ctypes.set_errno(code)
            return -1 if code else 0

    monkeypatch.setattr(direct_module, "_LIBC", Library())
    libc_call("fallocate", 1)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        libc_call("fallocate", 1)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        libc_call("renameat2", 1)


def test_exchange_where_it_is_not_supported(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_module, "_LIBC", object())
    local.write("a", b"1")
    local.write("b", b"2")
    with pytest.raises(OSError, match=r"a' -> '.*b'") as caught:
        local.exchange("a", "b")
    assert caught.value.errno == errno.ENOSYS
    assert (local.read("a"), local.read("b")) == (b"1", b"2")


# -- syncs ------------------------------------------------------------------------------------------------------------
class Syncs:
    """Counts `os.fsync`, and lets it fail with `code`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folders: list[bool] = []
        self.code = 0
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, fd: int) -> None:
        self.folders.append(stat.S_ISDIR(os.fstat(fd).st_mode))
        if self.code:
            raise os_error(self.code)
        self._fsync(fd)


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    return Syncs(monkeypatch)


def test_what_is_synced(local: LocalStorage, syncs: Syncs) -> None:
    def during(call: Callable[[], object]) -> list[bool]:
        syncs.folders.clear()
        call()
        return list(syncs.folders)

    assert during(lambda: write(local, "file", memoryview(b"abc"))) == [False]
    assert during(lambda: local.write("small", b"abc")) == [False]
    assert during(lambda: local.write("small", b"abc", replace=True)) == [False]
    assert during(lambda: local.append("log", b"abc")) == []
    assert during(lambda: local.append("log", b"abc", sync=True)) == [False]
    assert during(lambda: local.sync_dir()) == [True]
    assert during(lambda: local.child("a/b").make_root()) == [True, True]
    assert during(lambda: local.child("a/b").make_root()) == []


def test_a_failed_sync_is_raised_once_and_never_repeated(local: LocalStorage, syncs: Syncs) -> None:
    writer = local.create("file", 3)
    writer.write(b"abc", 0)
    syncs.code = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        writer.finish(3)
    syncs.code = 0
    with pytest.raises(OSError, match="failed to finish"):
        writer.finish(3)
    assert syncs.folders == [False]
    writer.abort()
    assert local.list() == []


def test_a_failed_sync_of_a_small_file_leaves_what_was(local: LocalStorage, syncs: Syncs) -> None:
    local.write("file", b"old")
    syncs.code = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        local.write("file", b"new", replace=True)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        local.write("new", b"new")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        local.append("file", b"more", sync=True)
    assert local.list() == ["file"]


def test_a_failed_sync_of_a_folder(local: LocalStorage, syncs: Syncs) -> None:
    syncs.code = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        local.sync_dir()
    syncs.code = errno.EINVAL  # no such thing here
    local.sync_dir()


def test_a_failed_close_is_a_failed_file(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = local.create("file", 3)
    writer.write(b"abc", 0)
    real = os.close

    def close(fd: int) -> None:
        real(fd)
        raise os_error(errno.EIO)

    monkeypatch.setattr(os, "close", close)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        writer.finish(3)
    monkeypatch.undo()
    writer.abort()
    assert local.list() == []


@pytest.mark.parametrize("failing", ["rename", "fsync", "write"])
def test_temporary_names_are_tidied_up(local: LocalStorage, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    local.write("file", b"old")
    local.symlink("file", "link")
    seen: list[str] = []

    def fail(*arguments: object) -> None:
        seen.extend(local.list())
        raise os_error(errno.EIO)

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        local.write("file", b"new", replace=True)
    if failing == "rename":
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            local.symlink("other", "link")
    monkeypatch.undo()
    assert local.list() == ["file", "link"]
    assert (local.read("file"), local.read_link("link")) == (b"old", "file")
    temporary = {name for name in seen if name.startswith(TEMPORARY)}
    assert len(temporary) == (2 if failing == "rename" else 1)


def test_short_writes_of_small_files(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    local.write("file", b"0123456789" * 3)
    local.append("log", b"0123456789" * 3)
    assert local.read("file") == local.read("log") == b"0123456789" * 3


def test_a_line_is_one_write(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lengths = os.write, []

    def write_and_count(fd: int, data: bytes) -> int:
        lengths.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write_and_count)
    local.append("log", b"x" * 100_000)
    assert lengths == [100_000]


def test_short_reads(local: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    local.write("file", b"0123456789")
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: real(fd, min(length, 3), offset))
    assert local.read("file") == b"0123456789"
    assert local.read("file", 2, 5) == b"23456"
    assert local.read("file", 8, 5) == b"89"


def test_a_file_system_that_says_eexist_for_a_folder_that_is_not_empty(
    local: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(source: str, target: str) -> None:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)) as caught:
        local.rename("a", "b")
    assert caught.value.errno == errno.ENOTEMPTY


# -- permissions ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077, 0o000])
def test_files_and_folders_are_for_whom_umask_lets(local: LocalStorage, umask: int) -> None:
    def mode(path: str) -> int:
        return stat.S_IMODE(os.stat(f"{local.root}/{path}").st_mode)

    before = os.umask(umask)
    try:
        write(local, "written", memoryview(b"abc"))
        local.write("small", b"abc")
        local.write("small", b"abc", replace=True)
        local.append("log", b"abc")
        local.make_folder("folder")
        local.child("a/b").make_root()
    finally:
        os.umask(before)
    assert mode("written") == 0o444 & ~umask
    assert mode("small") == mode("log") == 0o666 & ~umask
    assert mode("folder") == mode("a") == mode("a/b") == 0o777 & ~umask


def may_give(folder: Path, group: int) -> bool:
    try:
        os.chown(folder, -1, group)
    except OSError:
        return False
    return True


def test_a_group_folder_stays_one(tmp_path: Path) -> None:
    """Everything made below a setgid folder has its group, and folders hand the bit on."""
    shared = tmp_path / "shared"
    shared.mkdir()
    others = [4242, *(group for group in os.getgroups() if group != os.getegid())]
    group = next((one for one in others if may_give(shared, one)), os.getegid())
    shared.chmod(0o2775)
    storage = LocalStorage(shared).child("run/attempts")
    storage.make_root()
    storage.make_folder("1.work")
    write(storage, "1.work/file", memoryview(b"abc"))
    storage.write("1.json", b"{}", replace=True)
    storage.symlink("1.work", "latest")
    for path in ("", "1.work", "1.work/file", "1.json", "latest"):
        found = os.lstat(f"{storage.root}/{path}")
        assert found.st_gid == group, path
        assert bool(found.st_mode & stat.S_ISGID) == stat.S_ISDIR(found.st_mode), path


# -- descriptors ------------------------------------------------------------------------------------------------------
def descriptors() -> set[str]:
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}  # but for listdir's own


def test_no_descriptor_is_left_open(local: LocalStorage) -> None:
    gc.collect()  # what other tests left
    before = descriptors()
    write(local, "file", memoryview(b"abc"))
    local.create("aborted", 10).abort()
    local.create("dropped", 10)
    local.write("small", b"abc")
    local.append("log", b"abc", sync=True)
    local.read("file")
    local.read_into("file", 0, memoryview(bytearray(3)))
    local.sync_dir()
    local.child("a/b/c").make_root()
    local.remove_tree("a")
    for bad in ("missing", "missing/file"):
        with pytest.raises(FileNotFoundError):
            local.read(bad)
    with pytest.raises(FileExistsError):
        local.create("file", 10)
    gc.collect()
    assert len(descriptors()) == len(before)
    assert local.list() == ["dropped", "file", "log", "small"]


def test_descriptors_are_not_inherited_by_other_programs(local: LocalStorage) -> None:
    before = descriptors()
    writer = local.create("file", 10)
    local.write("lock", b"")
    lock = local.lock("lock")
    assert lock is not None
    opened = descriptors() - before
    assert len(opened) == 2
    assert not any(os.get_inheritable(int(fd)) for fd in opened)
    writer.abort()
    lock.release()


def test_the_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("run")
    monkeypatch.chdir("/")
    storage.make_root()
    storage.write("file", b"abc")
    assert (tmp_path / "run" / "file").read_bytes() == b"abc"
    assert storage.root == str(tmp_path / "run")


def test_remove_tree_does_not_follow_a_link_put_there_meanwhile(
    local: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between listing a folder and opening what is in it, somebody replaces a folder by a link to a precious one."""
    for folder in ("precious", "tree", "tree/folder"):
        local.make_folder(folder)
    local.write("precious/file", b"1")
    real = os.listdir

    def listdir(path: str | int) -> list[str]:
        names = real(path)
        if "folder" in names and isinstance(path, int):
            os.rmdir(f"{local.root}/tree/folder")
            os.symlink("../precious", f"{local.root}/tree/folder")
        return names

    monkeypatch.setattr(os, "listdir", listdir)
    local.remove_tree("tree")
    monkeypatch.undo()
    assert local.list() == ["precious"]
    assert local.read("precious/file") == b"1"
