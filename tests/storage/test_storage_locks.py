"""Locks: of every storage inside one process, and of `LocalStorage` across processes, forks and deaths."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from milepost.storage import BLOCK, LocalStorage, Storage

PATIENCE = 30.0  # seconds until something that must happen soon counts as never


# -- in one process, every storage ------------------------------------------------------------------------------------
def test_a_lock_has_one_holder(storage: Storage) -> None:
    storage.write("file", b"")
    assert not storage.locked("file")
    lock = storage.lock("file")
    assert lock is not None
    assert storage.locked("file")
    assert storage.lock("file") is None
    assert storage.locked("file")
    lock.release()
    assert not storage.locked("file")
    lock.release()
    again = storage.lock("file")
    assert again is not None
    lock.release()  # the old one, once more: must not free the new one
    assert storage.locked("file")
    again.release()


def test_a_lock_is_of_the_file_not_of_the_name(storage: Storage) -> None:
    storage.make_folder("folder")
    storage.write("folder/draft", b"")
    lock = storage.lock("folder/draft")
    assert lock is not None
    storage.link("folder/draft", "folder/final")
    storage.symlink("folder/final", "link")
    storage.remove("folder/draft")
    storage.write("folder/draft", b"")
    assert not storage.locked("folder/draft")
    for path in ("folder/final", "link"):
        assert storage.locked(path)
        assert storage.lock(path) is None
    assert storage.child("folder").locked("final")
    storage.rename("folder", "moved")
    assert storage.locked("moved/final")
    lock.release()
    assert not storage.locked("moved/final")


def test_only_a_file_that_is_there_can_be_locked(storage: Storage) -> None:
    storage.make_folder("folder")
    for path, code in {"missing": errno.ENOENT, "folder": errno.EISDIR}.items():
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            storage.lock(path)
        assert caught.value.errno == code
    with pytest.raises(FileNotFoundError):
        storage.locked("missing")


def test_a_locked_file_is_read_and_written_as_any_other(storage: Storage) -> None:
    storage.write("file", b"1")
    lock = storage.lock("file")
    assert lock is not None
    out = memoryview(bytearray(2))
    storage.append("file", b"2")
    storage.touch("file")
    assert storage.read("file") == b"12"
    assert storage.read_into("file", 0, out) == 2
    assert storage.stat("file").size == 2
    assert storage.locked("file")
    storage.remove("file")
    lock.release()


def test_many_threads_one_holder(storage: Storage) -> None:
    storage.write("file", b"")
    holders: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            lock = storage.lock("file")
            if lock is not None:
                holders.append(number)
                most.append(len(holders))
                storage.read("file")
                holders.remove(number)
                lock.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most
    assert set(most) == {1}
    assert not storage.locked("file")


# -- across processes -------------------------------------------------------------------------------------------------
PROBE = """
import fcntl, sys
for line in sys.stdin:
    with open(line.rstrip("\\n"), "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            answer = "free"
        except OSError:
            answer = "taken"
    print(answer, flush=True)
"""

HOLDER = """
import os, sys, time
from milepost.storage import LocalStorage
storage = LocalStorage(sys.argv[1])
lock = storage.lock("file")
assert lock is not None
worker = os.fork() if "worker" in sys.argv else -1
if worker != 0:
    print(worker, flush=True)
time.sleep(600)
"""


def line_from(pipe: IO[str] | None) -> str:
    assert pipe is not None
    assert select.select([pipe], [], [], PATIENCE)[0], "no answer from the other process"
    return pipe.readline().rstrip("\n")


@pytest.fixture
def free_elsewhere(local: LocalStorage) -> Iterator[Callable[[str], bool]]:
    """Whether another process, without any of our code, can lock a file."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PROBE], stdin=pipe, stdout=pipe, text=True) as probe:

        def free(path: str) -> bool:
            assert probe.stdin is not None
            print(f"{local.root}/{path}", file=probe.stdin, flush=True)
            return line_from(probe.stdout) == "free"

        yield free


def in_child(work: Callable[[], bool]) -> bool:
    """What `work` says in a child made by fork; False if it raises or takes too long."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return True
    return False


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def holder(local: LocalStorage) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Starts another process that holds ``lock("file")``; gives it, and the id of its forked worker."""
    started: list[tuple[subprocess.Popen[str], int]] = []

    def start(*options: str) -> tuple[subprocess.Popen[str], int]:
        local.write("file", b"")
        command = [sys.executable, "-c", HOLDER, local.root, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append((process, int(line_from(process.stdout))))
        return started[-1]

    yield start
    for process, worker in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if worker > 0:
            os.kill(worker, signal.SIGKILL)


def test_another_process_holds_it_until_it_dies(
    local: LocalStorage, holder: Callable[..., tuple[subprocess.Popen[str], int]]
) -> None:
    process, _ = holder()
    assert local.locked("file")
    assert local.lock("file") is None
    assert local.locked("file")
    process.kill()
    process.wait()
    assert not local.locked("file")
    lock = local.lock("file")
    assert lock is not None
    lock.release()


def test_a_worker_that_outlives_its_trainer_holds_nothing(
    local: LocalStorage, holder: Callable[..., tuple[subprocess.Popen[str], int]]
) -> None:
    process, worker = holder("worker")
    assert local.locked("file")
    process.kill()
    process.wait()
    os.kill(worker, 0)  # it lives
    assert not local.locked("file")


def test_nothing_but_release_gives_it_back(
    local: LocalStorage, free_elsewhere: Callable[[str], bool], aligned: Callable[[int], memoryview]
) -> None:
    local.write("file", b"1" * (2 * BLOCK))
    local.write("other", b"")
    local.link("file", "second")
    local.symlink("file", "link")
    assert free_elsewhere("file")
    lock = local.lock("file")
    assert lock is not None

    def rename() -> None:
        local.rename("file", "third")
        local.link("third", "file")

    def replace() -> None:
        local.write("third", b"", replace=True)
        local.remove("second")

    def release_in_child() -> bool:
        lock.release()
        return True

    uses: dict[str, Callable[[], object]] = {
        "read": lambda: local.read("file"),
        "read another name": lambda: local.read("second", 1, 1),
        "read through a link": lambda: local.read("link", 1, 1),
        "read_into": lambda: local.read_into("file", 0, aligned(2 * BLOCK)),
        "read_into, unaligned": lambda: local.read_into("file", 1, aligned(100)),
        "append": lambda: local.append("file", b"2", sync=True),
        "touch": lambda: local.touch("file"),
        "locked": lambda: local.locked("file"),
        "lock": lambda: local.lock("second"),
        "stat": lambda: local.stat("file"),
        "another file": lambda: local.read("other"),
        "fail to read": lambda: fails(lambda: local.read("file", -1, 1)),
        "fail to create": lambda: fails(lambda: local.create("file", 1)),
        "rename": rename,
        "replace": replace,
        "a child": lambda: in_child(lambda: local.read("file") != b""),
        "a child's release": lambda: in_child(release_in_child),
    }
    for name, use in uses.items():
        for _ in range(3 if name in {"read", "read_into", "append", "locked", "lock"} else 1):
            use()
        assert not free_elsewhere("file"), name
    lock.release()
    assert free_elsewhere("file")


def test_reads_that_began_before_the_lock_do_not_drop_it(
    local: LocalStorage, free_elsewhere: Callable[[str], bool]
) -> None:
    local.write("file", b"1" * 100_000)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            local.read("file")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(40):
            lock = local.lock("file")
            assert lock is not None
            time.sleep(0.002)  # time for the reads that had the file open to close it
            assert not free_elsewhere("file")
            lock.release()
            assert free_elsewhere("file")
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_descriptors_of_a_locked_file_are_few_and_closed_at_last(local: LocalStorage) -> None:
    local.write("file", b"1")
    before = open_descriptors()
    lock = local.lock("file")
    assert lock is not None
    for _ in range(20):
        local.read("file")
        local.read_into("file", 0, memoryview(bytearray(1)))
        local.append("file", b"2")
        assert local.locked("file")
        assert local.lock("file") is None
    assert open_descriptors() <= before + 4  # the lock's; to read; to append; to try to lock
    lock.release()
    assert open_descriptors() == before
    assert local.read("file") == b"1" + b"2" * 20


def test_a_forked_child_does_not_hold_what_its_parent_holds(
    local: LocalStorage, free_elsewhere: Callable[[str], bool]
) -> None:
    local.write("file", b"1")
    local.write("own", b"")
    before = open_descriptors()
    lock = local.lock("file")
    assert lock is not None
    local.read("file")

    def child() -> bool:
        closed = open_descriptors() <= before
        seen = local.locked("file") and local.lock("file") is None  # the parent's, as any other process sees it
        lock.release()  # as when the interpreter tidies up in a worker
        own = local.lock("own")
        return closed and seen and own is not None and local.locked("file")

    assert in_child(child)
    assert not free_elsewhere("file")
    assert not local.locked("own")
    lock.release()
    assert in_child(lambda: local.lock("file") is not None)


def test_a_forked_child_can_lock_what_its_parent_gave_back(local: LocalStorage) -> None:
    local.write("file", b"")
    lock = local.lock("file")
    assert lock is not None
    (asked, ask), (given, give) = os.pipe(), os.pipe()

    def release_when_asked() -> None:
        os.read(asked, 1)
        lock.release()
        os.write(give, b"!")

    def child() -> bool:
        refused = local.lock("file") is None
        os.write(ask, b"?")
        os.read(given, 1)
        return refused and not local.locked("file") and local.lock("file") is not None

    thread = threading.Thread(target=release_when_asked)
    thread.start()
    assert in_child(child)
    thread.join()
    for end in (asked, ask, given, give):
        os.close(end)


def test_threads_of_a_forked_child_can_lock(local: LocalStorage) -> None:
    local.write("file", b"")

    def child() -> bool:
        locks: list[object] = []
        thread = threading.Thread(target=lambda: locks.append(local.lock("file")), daemon=True)
        thread.start()
        thread.join(5)
        return len(locks) == 1 and locks[0] is not None

    assert in_child(child)


def test_a_fork_in_the_midst_of_locking_leaves_a_child_that_works(local: LocalStorage) -> None:
    local.write("file", b"1")
    local.write("own", b"")
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            lock = local.lock("file")
            local.read("file")
            if lock is not None:
                lock.release()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert in_child(lambda: local.read("file") == b"1" and local.lock("own") is not None)
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_locks_survive_a_change_of_directory(
    local: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    relative = LocalStorage(tmp_path.name)
    relative.write("file", b"")
    lock = relative.lock("file")
    assert lock is not None
    monkeypatch.chdir("/")
    assert relative.locked("file")
    assert local.locked("file")
    lock.release()
