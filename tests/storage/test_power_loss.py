"""`MemoryStorage` as a model of power loss: what survives every crash, what may be lost, and that it has teeth."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.storage.disk import SECTOR
from milepost.storage.faults import FaultyStorage, Killed, NoSync, kill
from milepost.storage.local import TEMPORARY
from milepost.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from milepost.storage import Storage

Tree = dict[str, bytes | str | None]


def tree(storage: Storage, path: str = "") -> Tree:
    """All that is under `path`: bytes of files, targets of links, None for folders; without temporary names."""
    found: Tree = {}
    for name in storage.list(path):
        full = f"{path}/{name}".lstrip("/")
        kind = storage.stat(full).kind
        if name.startswith(TEMPORARY):
            continue
        if kind == "folder":
            found |= {full: None} | tree(storage, full)
        else:
            found[full] = storage.read(full) if kind == "file" else storage.read_link(full)
    return found


def crashes(storage: MemoryStorage) -> Iterator[MemoryStorage]:
    """Every outcome of power loss, by going through all sequences of choices."""
    script: list[tuple[int, int]] = []  # (chosen, out of)
    while True:
        made = 0

        def choose(n: int) -> int:
            nonlocal made
            if made == len(script):
                script.append((0, n))
            made += 1
            return script[made - 1][0]

        yield storage.crash(choose)
        while script and script[-1][0] + 1 == script[-1][1]:
            script.pop()
        if not script:
            return
        chosen, n = script.pop()
        script.append((chosen + 1, n))


def outcomes(storage: MemoryStorage) -> list[Tree]:
    """What may be found, each once."""
    found: list[Tree] = []
    for after in crashes(storage):
        one = tree(after)
        if one not in found:
            found.append(one)
    return found


def same(found: list[Tree], *expected: Tree) -> bool:
    return len(found) == len(expected) and all(one in found for one in expected)


@pytest.fixture
def disk() -> MemoryStorage:
    return MemoryStorage()


# -- names ------------------------------------------------------------------------------------------------------------
def test_a_name_is_durable_when_its_folder_is_synced(disk: MemoryStorage) -> None:
    disk.write("file", b"1")
    assert same(outcomes(disk), {}, {"file": b"1"})
    disk.sync_dir()
    assert same(outcomes(disk), {"file": b"1"})
    disk.remove("file")
    assert same(outcomes(disk), {"file": b"1"}, {})
    disk.sync_dir()
    assert same(outcomes(disk), {})


def test_syncing_a_folder_says_nothing_of_its_own_name(disk: MemoryStorage) -> None:
    disk.make_folder("folder")
    disk.write("folder/file", b"1")
    disk.sync_dir("folder")
    assert same(outcomes(disk), {}, {"folder": None, "folder/file": b"1"})
    disk.sync_dir()
    assert same(outcomes(disk), {"folder": None, "folder/file": b"1"})


def test_syncing_a_folder_says_nothing_of_the_names_in_folders_below(disk: MemoryStorage) -> None:
    disk.make_folder("folder")
    disk.write("folder/file", b"1")
    disk.sync_dir()
    assert same(outcomes(disk), {"folder": None}, {"folder": None, "folder/file": b"1"})


def test_names_are_lost_whatever_their_order_was(disk: MemoryStorage) -> None:
    disk.write("a", b"1")
    disk.write("b", b"2")
    assert same(outcomes(disk), {}, {"a": b"1"}, {"b": b"2"}, {"a": b"1", "b": b"2"})


def test_changes_of_one_name_keep_their_order(disk: MemoryStorage) -> None:
    disk.write("file", b"1")
    disk.remove("file")
    disk.write("file", b"2")
    disk.remove("file")
    assert same(outcomes(disk), {}, {"file": b"1"}, {"file": b"2"})


def test_replacing_leaves_the_old_or_the_new_bytes(disk: MemoryStorage) -> None:
    disk.write("file", b"1")
    disk.sync_dir()
    disk.write("file", b"2", replace=True)
    assert same(outcomes(disk), {"file": b"1"}, {"file": b"2"})
    disk.symlink("file", "link")
    disk.sync_dir()
    disk.symlink("other", "link")
    assert same(outcomes(disk), {"file": b"2", "link": "file"}, {"file": b"2", "link": "other"})


def test_a_temporary_name_may_stay(disk: MemoryStorage) -> None:
    disk.write("file", b"1", replace=True)
    names = {tuple(name[: len(TEMPORARY)] for name in after.list()) for after in crashes(disk)}
    assert names == {(), (TEMPORARY,), ("file",)}


def committed() -> MemoryStorage:
    disk = MemoryStorage()
    disk.make_folder("work")
    disk.make_folder("work/step")
    disk.write("work/step/file", b"1")
    for folder in ("work/step", "work", ""):
        disk.sync_dir(folder)
    return disk


BEFORE: Tree = {"work": None, "work/step": None, "work/step/file": b"1"}
AFTER: Tree = {"work": None, "step": None, "step/file": b"1"}


def test_a_rename_is_durable_when_the_folder_of_the_new_name_is_synced() -> None:
    disk = committed()
    disk.rename("work/step", "step")
    assert same(outcomes(disk), BEFORE, AFTER)
    disk.sync_dir("work")  # that of the old name: promises nothing
    assert same(outcomes(disk), BEFORE, AFTER)
    disk.sync_dir()
    assert same(outcomes(disk), AFTER)


def test_a_rename_makes_durable_what_it_moved_only_if_that_was_named(disk: MemoryStorage) -> None:
    disk.make_folder("work")
    disk.make_folder("work/step")
    disk.write("work/step/file", b"1")
    disk.rename("work/step", "step")
    disk.sync_dir()
    assert same(outcomes(disk), {"work": None, "step": None}, {"work": None, "step": None, "step/file": b"1"})


def test_a_change_may_stay_pending_when_what_it_builds_on_is_durable(disk: MemoryStorage) -> None:
    disk.make_folder("work")
    disk.sync_dir()
    disk.write("work/file", b"1")
    disk.rename("work/file", "file")
    assert same(outcomes(disk), {"work": None}, {"work": None, "work/file": b"1"}, {"work": None, "file": b"1"})
    disk.sync_dir("work")
    assert same(outcomes(disk), {"work": None, "work/file": b"1"}, {"work": None, "file": b"1"})


@pytest.mark.parametrize("synced", ["", "work"])
def test_an_exchange_is_durable_when_either_folder_is_synced(synced: str) -> None:
    disk = committed()
    disk.write("step", b"2")
    disk.sync_dir()
    disk.exchange("work/step", "step")
    before, after = BEFORE | {"step": b"2"}, AFTER | {"work/step": b"2"}
    assert same(outcomes(disk), before, after)
    disk.sync_dir(synced)
    assert same(outcomes(disk), after)


def test_hard_links_are_one_file_after_a_crash(disk: MemoryStorage) -> None:
    disk.write("a", b"1")
    disk.link("a", "b")
    assert same(outcomes(disk), {}, {"a": b"1"}, {"b": b"1"}, {"a": b"1", "b": b"1"})
    disk.sync_dir()
    after = next(crashes(disk))
    assert after.stat("a").identity == after.stat("b").identity
    assert after.stat("a").links == 2


def test_folders_are_never_lost_inside_each_other(disk: MemoryStorage) -> None:
    disk.make_folder("a")
    disk.make_folder("b")
    disk.write("a/in-a", b"1")
    disk.write("b/in-b", b"2")
    for folder in ("a", "b", ""):
        disk.sync_dir(folder)
    disk.rename("a", "b/a")
    disk.rename("b/a", "a")
    disk.rename("b", "a/b")  # kept without the second: a would be in b, and b in a
    for found in outcomes(disk):
        files = sorted(data for data in found.values() if data is not None)
        assert files == [b"1", b"2"], found


def test_a_folder_removed_with_all_in_it_comes_back_in_any_part() -> None:
    disk = committed()
    disk.remove_tree("work")
    found = outcomes(disk)
    assert same(found, BEFORE, {"work": None, "work/step": None}, {"work": None}, {})


# -- data -------------------------------------------------------------------------------------------------------------
def test_data_that_is_not_synced_may_be_anything_of_its_length(disk: MemoryStorage) -> None:
    data = b"x" * (SECTOR + 2)
    disk.append("file", data)
    disk.sync_dir()
    found = {after.read("file") for after in crashes(disk)}
    prefixes = {data[:length] for length in range(len(data) + 1)}
    parts = [(b"x" * SECTOR, bytes(SECTOR), b"\xa5" * SECTOR), (b"xx", bytes(2), b"\xa5\xa5")]
    assert found == prefixes | {first + second for first in parts[0] for second in parts[1]}


def test_data_that_was_synced_survives_what_is_appended_later(disk: MemoryStorage) -> None:
    disk.append("log", b"one\n", sync=True)
    disk.sync_dir()
    assert same(outcomes(disk), {"log": b"one\n"})
    disk.append("log", b"2")
    assert {after.read("log") for after in crashes(disk)} == {b"one\n" + rest for rest in (b"", b"2", b"\0", b"\xa5")}
    disk.append("log", b"", sync=True)
    assert same(outcomes(disk), {"log": b"one\n2"})


def test_a_file_is_durable_when_it_is_finished(disk: MemoryStorage) -> None:
    writer = disk.create("file", 2)
    disk.sync_dir()
    writer.write(b"ab", 0)
    assert {after.read("file") for after in crashes(disk)} > {b"", b"a", b"ab", b"\0\0"}
    writer.finish(2)
    assert same(outcomes(disk), {"file": b"ab"})
    writer = disk.create("next", 2)
    writer.write(b"ab", 0)
    writer.finish(2)  # but its name is not
    assert same(outcomes(disk), {"file": b"ab"}, {"file": b"ab", "next": b"ab"})


def test_a_crash_leaves_the_storage_as_it_is_and_frees_the_locks(disk: MemoryStorage) -> None:
    disk.write("file", b"1")
    lock = disk.lock("file")
    assert lock is not None
    afters = list(crashes(disk))
    assert disk.locked("file")
    found = next(after for after in afters if after.list())
    assert not found.locked("file")
    found.append("file", b"2", sync=True)
    found.remove("file")
    assert tree(disk) == {"file": b"1"}


def test_a_crash_seen_from_a_child(disk: MemoryStorage) -> None:
    run = disk.child("runs/mnist")
    run.make_root()
    run.write("file", b"1")
    run.sync_dir()
    after = run.crash(random.Random(0).randrange)
    assert after.root == run.root
    assert after.read("file") == b"1"


# -- properties -------------------------------------------------------------------------------------------------------
NAMES = st.sampled_from(["a", "b", "c", "f", "g", "f/a", "f/b", "f/g", "g/a", "g/b", "g/f", "f/g/a", "g/f/a"])
FOLDERS = st.sampled_from(["", "f", "g", "f/g", "g/f"])


def attempt(call: Callable[[], object]) -> bool:
    """Whether `call` was possible; anything else than an OSError is a failure of the test."""
    try:
        call()
    except OSError:
        return False
    return True


@given(st.data())
def test_what_was_synced_survives_every_crash(data: st.DataObject) -> None:
    """A tree is synced; then unsynced operations change other names. None of the untouched names is lost or changed."""
    disk = MemoryStorage()
    for number in range(data.draw(st.integers(0, 12))):
        operate(disk, data, number, st.just(""))
    for folder in ["", *(path for path, content in tree(disk).items() if content is None)]:
        disk.sync_dir(folder)
    before = tree(disk)
    touched: set[str] = set()
    for number in range(100, 100 + data.draw(st.integers(0, 10))):
        touched |= operate(disk, data, number, FOLDERS)
    after = tree(disk.crash(lambda n: data.draw(st.integers(0, n - 1))))
    for path, content in before.items():
        parts = path.split("/")
        if not any("/".join(parts[: depth + 1]) in touched for depth in range(len(parts))):
            assert after.get(path, "lost") == content, path
    for path, content in after.items():
        assert content is None or isinstance(content, str) or content.startswith(b"file "), path


def operate(disk: MemoryStorage, data: st.DataObject, number: int, synced: st.SearchStrategy[str]) -> set[str]:
    """Try one random operation; the names it changed."""
    content = f"file {number}".encode()
    path, other = data.draw(NAMES), data.draw(NAMES)
    operations: dict[str, tuple[Callable[[], object], set[str]]] = {
        "write": (lambda: disk.write(path, content), {path}),
        "replace": (lambda: disk.write(path, content, replace=True), {path}),
        "folder": (lambda: disk.make_folder(path), {path}),
        "rename": (lambda: disk.rename(path, other), {path, other}),
        "exchange": (lambda: disk.exchange(path, other), {path, other}),
        "link": (lambda: disk.link(path, other), {other}),
        "remove": (lambda: disk.remove_tree(path), {path}),
        "symlink": (lambda: disk.symlink("nowhere", path), {path}),
        "sync": (lambda: disk.sync_dir(data.draw(synced)), set()),
    }
    call, changed = operations[data.draw(st.sampled_from(sorted(operations)))]
    return changed if attempt(call) else set()


@given(st.data())
def test_a_rename_is_never_half(data: st.DataObject) -> None:
    """Files and folders are only moved about: after a crash each is there once, wherever."""
    disk = MemoryStorage()
    for path in ("f", "f/g", "h"):
        disk.make_folder(path)
    contents = {"a": b"1", "f/a": b"2", "f/g/a": b"3", "h/a": b"4"}
    for path, content in contents.items():
        disk.write(path, content)
    for folder in ("", "f", "f/g", "h"):
        disk.sync_dir(folder)
    names = st.sampled_from(["a", "b", "f", "g", "h"])
    paths = st.lists(names, min_size=1, max_size=4).map("/".join)
    for _ in range(data.draw(st.integers(1, 15))):
        one, two = data.draw(paths), data.draw(paths)
        if data.draw(st.booleans()):
            attempt(lambda one=one, two=two: disk.exchange(one, two))  # type: ignore[misc]
        elif not attempt(lambda two=two: disk.stat(two)):  # type: ignore[misc]
            attempt(lambda one=one, two=two: disk.rename(one, two))  # type: ignore[misc]
        if data.draw(st.integers(0, 4)) == 0:
            attempt(lambda one=one: disk.sync_dir(one))  # type: ignore[misc]
    for after in (disk, disk.crash(lambda n: data.draw(st.integers(0, n - 1)))):
        found = [content for content in tree(after).values() if content is not None]
        assert sorted(found) == sorted(contents.values())
        assert list(tree(after).values()).count(None) == 3


# -- teeth: the commit of a folder, right and wrong -------------------------------------------------------------------
FILES = {"model": b"m" * 1500, "manifest": b"{}"}


def finish(storage: Storage, path: str, data: bytes) -> None:
    writer = storage.create(path, len(data))
    writer.write(data, 0)
    writer.finish(len(data))


def commit(storage: Storage, *, leave_out: str = "") -> None:
    storage.make_folder("work/step")
    for name, data in FILES.items():
        finish(storage, f"work/step/{name}", data)
    if leave_out != "sync of the step":
        storage.sync_dir("work/step")
    storage.rename("work/step", "step")
    if leave_out != "sync of the run":
        storage.sync_dir("work" if leave_out == "the right folder" else "")


def commit_too_early(storage: Storage) -> None:
    storage.make_folder("step")
    storage.sync_dir()
    for name, data in FILES.items():
        finish(storage, f"step/{name}", data)
    storage.sync_dir("step")


def violations(
    work: Callable[[Storage], None], process_of: Callable[[Storage], Storage] = lambda storage: storage
) -> set[str]:
    """Kill `work` at every operation and after the last, let the power fail, and look for what must not be."""
    found: set[str] = set()
    number, acknowledged = 0, False
    while not acknowledged:
        disk = MemoryStorage()
        disk.child("work").make_root()
        process = FaultyStorage(process_of(disk), [kill(number)])
        try:
            work(process)
            acknowledged = True
        except Killed:
            number += 1
        for seed in range(60):
            after = tree(disk.crash(random.Random(seed).randrange))
            step = {path.removeprefix("step/"): data for path, data in after.items() if path.startswith("step/")}
            if "step" in after and step != FILES:
                found.add("half a checkpoint under the final name")
            if "step" not in after and acknowledged:
                found.add("an acknowledged checkpoint is lost")
    return found


def test_a_commit_in_the_right_order_survives_every_crash() -> None:
    assert violations(commit) == set()


@pytest.mark.parametrize(
    ("broken", "process_of", "expected"),
    [
        (commit, NoSync, {"half a checkpoint under the final name", "an acknowledged checkpoint is lost"}),
        (commit_too_early, lambda disk: disk, {"half a checkpoint under the final name"}),
        (
            lambda storage: commit(storage, leave_out="sync of the step"),
            lambda disk: disk,
            {"half a checkpoint under the final name"},
        ),
        (
            lambda storage: commit(storage, leave_out="sync of the run"),
            lambda disk: disk,
            {"an acknowledged checkpoint is lost"},
        ),
        (
            lambda storage: commit(storage, leave_out="the right folder"),
            lambda disk: disk,
            {"an acknowledged checkpoint is lost"},
        ),
    ],
    ids=["nothing synced", "in place", "step not synced", "run not synced", "other folder synced"],
)
def test_a_broken_commit_is_caught(
    broken: Callable[[Storage], None], process_of: Callable[[Storage], Storage], expected: set[str]
) -> None:
    assert violations(broken, process_of) == expected


# -- room, time, permissions ------------------------------------------------------------------------------------------
def full(call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        call()
    assert caught.value.errno == errno.ENOSPC


def test_capacity() -> None:
    disk = MemoryStorage(capacity=100)
    assert disk.free_space() == 100
    full(lambda: disk.create("file", 101))
    full(lambda: disk.write("file", b"x" * 101))
    full(lambda: disk.append("file", b"x" * 101))
    assert disk.list() == []
    writer = disk.create("file", 60)
    assert disk.free_space() == 40
    full(lambda: disk.write("other", b"x" * 41))
    writer.write(b"x" * 60, 0)
    assert disk.free_space() == 40
    full(lambda: writer.write(b"x" * 60, 50))
    writer.finish(30)
    assert disk.free_space() == 70
    disk.link("file", "second")
    disk.write("log", b"x" * 60)
    full(lambda: disk.append("log", b"x" * 11))
    full(lambda: disk.write("log", b"x" * 50, replace=True))  # both are there for a moment
    disk.remove("file")
    assert disk.free_space() == 10
    disk.remove("second")
    assert disk.free_space() == 40
    disk.capacity = 30
    assert disk.free_space() == 0
    disk.capacity = None
    disk.write("large", b"x" * 1000)


def test_an_open_file_takes_room_until_its_writer_ends() -> None:
    disk = MemoryStorage(capacity=100)
    writer = disk.create("file", 60)
    disk.remove("file")
    assert disk.free_space() == 40
    writer.abort()
    assert disk.free_space() == 100


def test_the_clock_can_be_given() -> None:
    now = [1000.0]
    disk = MemoryStorage(clock=lambda: now[0])
    disk.write("file", b"")
    now[0] = 1060.0
    assert disk.stat("file").mtime == 1000.0
    disk.touch("file")
    assert disk.stat("file").mtime == 1060.0
    assert next(after for after in crashes(disk) if after.list()).stat("file").mtime == 1060.0


def test_a_finished_file_is_read_only() -> None:
    disk = MemoryStorage()
    finish(disk, "file", b"abc")
    disk.sync_dir()
    for storage in (disk, disk.crash(random.Random(0).randrange)):
        with pytest.raises(PermissionError):
            storage.append("file", b"d")
        with pytest.raises(PermissionError):
            storage.lock("file")
        assert storage.read("file") == b"abc"
