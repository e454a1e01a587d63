"""`FaultyStorage`: every operation is counted, can fail, and can be the last; `NoSync` lies and does nothing else."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from milepost.storage import FileWriter, LocalStorage, Lock, Storage
from milepost.storage.faults import CHANGES, Fault, FaultyStorage, Killed, NoSync, Operation, fail, kill, on
from milepost.storage.memory import MemoryStorage


@pytest.fixture(params=["memory", "local"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path)


def finish(storage: Storage, path: str, data: bytes = b"abc") -> None:
    writer = storage.create(path, len(data))
    writer.write(data, 0)
    writer.finish(len(data))


def release(lock: Lock | None) -> None:
    assert lock is not None
    lock.release()


def everything(storage: Storage) -> dict[str, Callable[[], object]]:
    """Every operation once, each by its name, in an order in which all can be done."""
    handed_out: dict[str, FileWriter] = {}
    locks: dict[str, Lock | None] = {}
    return {
        "make_root": storage.make_root,
        "make_folder": lambda: storage.make_folder("folder"),
        "create": lambda: handed_out.update(one=storage.create("one", 3)),
        "writer.write": lambda: handed_out["one"].write(b"abc", 0),
        "writer.finish": lambda: handed_out["one"].finish(3),
        "writer.abort": lambda: handed_out["one"].abort(),
        "write": lambda: storage.write("two", b"abc"),
        "append": lambda: storage.append("two", b"d"),
        "touch": lambda: storage.touch("two"),
        "sync_dir": lambda: storage.sync_dir("folder"),
        "rename": lambda: storage.rename("one", "three"),
        "exchange": lambda: storage.exchange("two", "three"),
        "link": lambda: storage.link("two", "four"),
        "symlink": lambda: storage.symlink("two", "link"),
        "remove": lambda: storage.remove("four"),
        "remove_tree": lambda: storage.remove_tree("folder"),
        "lock": lambda: locks.update(one=storage.lock("three")),
        "lock.release": lambda: release(locks["one"]),
        "stat": lambda: storage.stat("two"),
        "list": lambda: storage.list(),
        "read": lambda: storage.read("two"),
        "read_into": lambda: storage.read_into("two", 0, memoryview(bytearray(3))),
        "read_link": lambda: storage.read_link("link"),
        "locked": lambda: storage.locked("three"),
        "free_space": storage.free_space,
    }


NAMES = list(everything(MemoryStorage()))


def test_every_operation_is_noted(inner: Storage) -> None:
    storage = FaultyStorage(inner)
    for call in everything(storage).values():
        call()
    assert [operation.name for operation in storage.operations] == NAMES
    assert {operation.name for operation in storage.operations if operation.changes} == CHANGES
    paths = {operation.name: operation.paths for operation in storage.operations}
    assert paths["rename"] == ("one", "three")
    assert paths["writer.finish"] == ("one",)
    assert paths["symlink"] == ("link",)
    assert paths["list"] == ("",)


def test_the_list_of_operations_knows_all_of_the_contract() -> None:
    methods = {name for name in dir(Storage) if not name.startswith("_")} - {"root", "child"}
    assert methods == {name for name in NAMES if "." not in name}


def test_paths_are_those_of_the_outermost_storage(inner: Storage) -> None:
    storage = FaultyStorage(inner)
    run = storage.child("runs").child("mnist")
    run.make_root()
    finish(run, "file")
    run.sync_dir()
    assert [operation.paths for operation in storage.operations] == [
        ("runs/mnist",),
        *[("runs/mnist/file",)] * 3,
        ("runs/mnist",),
    ]
    assert run.root == inner.child("runs/mnist").root


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_every_operation_can_be_the_last(inner: Storage, number: int) -> None:
    storage = FaultyStorage(inner, [kill(number)])
    calls = everything(storage)
    for index, name in enumerate(NAMES):
        if index < number:
            calls[name]()
        else:
            with pytest.raises((Killed, KeyError)):  # KeyError: a writer or lock that was never handed out
                calls[name]()
    assert storage.dead
    assert len(storage.operations) == number + 1
    with pytest.raises(Killed):
        storage.child("folder").list()


def test_killed_before_or_after(inner: Storage) -> None:
    before = FaultyStorage(inner, [kill(on("write", "a"))])
    with pytest.raises(Killed):
        before.write("a", b"1")
    assert inner.list() == []
    after = FaultyStorage(inner, [kill(on("write", "a"), after=True)])
    after.write("b", b"1")
    with pytest.raises(Killed):
        after.write("a", b"1")
    with pytest.raises(Killed):
        after.write("c", b"1")
    assert inner.list() == ["a", "b"]


def test_killed_after_an_operation_that_failed(inner: Storage) -> None:
    storage = FaultyStorage(inner, [kill(on("read"), after=True)])
    with pytest.raises(Killed):
        storage.read("missing")


def test_no_handler_of_errors_runs_in_a_dead_process(inner: Storage) -> None:
    storage = FaultyStorage(inner, [kill(on("writer.write"))])
    writer = storage.create("file", 3)

    def write_or_abort() -> None:
        try:
            writer.write(b"abc", 0)
        except BaseException:
            writer.abort()
            raise

    with pytest.raises(Killed):
        write_or_abort()
    assert inner.list() == ["file"]


def test_a_dead_process_holds_no_locks(inner: Storage) -> None:
    inner.write("file", b"")
    inner.write("other", b"")
    first, second = FaultyStorage(inner, [kill(on("touch"))]), FaultyStorage(inner)
    lock = first.lock("file")
    assert lock is not None
    assert second.lock("file") is None
    other = second.lock("other")
    assert other is not None
    with pytest.raises(Killed):
        first.touch("file")
    assert not second.locked("file")
    assert second.locked("other")
    assert second.lock("file") is not None
    with pytest.raises(Killed):
        lock.release()
    assert second.locked("file")
    other.release()


@pytest.mark.parametrize("after", [False, True])
def test_an_error_before_or_after(inner: Storage, after: bool) -> None:
    storage = FaultyStorage(inner, [fail(on("rename"), errno.EIO, after=after)])
    storage.write("a", b"1")
    with pytest.raises(OSError, match="on purpose") as caught:
        storage.rename("a", "b")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "a")
    assert storage.list() == (["b"] if after else ["a"])


def test_errors_are_of_the_class_of_their_errno(inner: Storage) -> None:
    storage = FaultyStorage(inner, [fail(0, errno.ENOENT), fail(1, errno.EEXIST), fail(2, errno.ENOSPC)])
    with pytest.raises(FileNotFoundError):
        storage.list()
    with pytest.raises(FileExistsError):
        storage.list()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        storage.list()
    assert storage.list() == []


def test_an_error_so_many_times(inner: Storage) -> None:
    storage = FaultyStorage(inner, [fail(on("append", "*.log"), errno.EAGAIN, times=2)])
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            storage.append("a.log", b"x")
        storage.append("a.txt", b"x")
    storage.append("a.log", b"y")
    assert (inner.read("a.log"), inner.read("a.txt")) == (b"y", b"xx")


@pytest.mark.parametrize("after", [False, True])
def test_a_file_whose_finish_failed_can_only_be_aborted(inner: Storage, after: bool) -> None:
    storage = FaultyStorage(inner, [fail(on("writer.finish"), errno.EIO, after=after, times=1)])
    writer = storage.create("file", 3)
    writer.write(b"abc", 0)
    with pytest.raises(OSError, match="on purpose"):
        writer.finish(3)
    with pytest.raises(OSError, match="failed to finish") as caught:
        writer.finish(3)
    assert caught.value.errno == errno.EBADF
    writer.abort()
    assert inner.list() == []
    finish(storage, "file")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (on("rename"), True),
        (on("re*"), True),
        (on("*", "*/a"), True),
        (on("rename", "b"), True),
        (on("rename", "a"), False),
        (on("link"), False),
        (lambda operation: len(operation.paths) == 2, True),
    ],
)
def test_where_a_fault_strikes(where: Callable[[Operation], bool], expected: bool) -> None:
    assert where(Operation("rename", ("f/a", "b"))) is expected


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_every_operation_can_fail(inner: Storage, number: int) -> None:
    fault: Fault = fail(number, errno.EIO)
    storage = FaultyStorage(inner, [fault])
    calls = everything(storage)
    for name in NAMES[:number]:
        calls[name]()
    with pytest.raises(OSError, match="on purpose"):
        calls[NAMES[number]]()


# -- a storage that never syncs ---------------------------------------------------------------------------------------
def test_without_syncs_all_looks_well(inner: Storage) -> None:
    storage = NoSync(inner)
    storage.make_folder("folder")
    writer = storage.create("folder/file", 6)
    writer.write(b"def", 3)
    writer.write(b"abcxxx"[:3], 0)
    writer.finish(5)
    storage.create("aborted", 1).abort()
    storage.write("small", b"1")
    storage.write("small", b"22", replace=True)
    storage.append("log", b"x", sync=True)
    storage.sync_dir("folder")
    assert storage.list() == ["folder", "log", "small"]
    assert (storage.read("folder/file"), storage.read("small"), storage.read("log")) == (b"abcde", b"22", b"x")
    for call in (lambda: storage.create("small", 1), lambda: storage.write("small", b"")):
        with pytest.raises(FileExistsError):
            call()
    with pytest.raises(FileNotFoundError):
        storage.sync_dir("missing")
    with pytest.raises(IsADirectoryError):
        storage.write("folder", b"", replace=True)
    assert storage.list() == ["folder", "log", "small"]


def test_without_syncs_all_may_be_lost() -> None:
    disk = MemoryStorage()
    storage = NoSync(disk)
    finish(storage, "file")
    storage.write("small", b"1")
    storage.append("log", b"x", sync=True)
    storage.sync_dir()
    found = [disk.crash(random.Random(seed).randrange) for seed in range(200)]
    assert [] in [after.list() for after in found]
    for name, data in {"file": b"abc", "small": b"1", "log": b"x"}.items():
        assert any(name in after.list() and after.read(name) != data for after in found), name
