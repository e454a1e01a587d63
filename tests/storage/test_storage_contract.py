"""What `milepost.storage.base` promises of files and names, of every storage. Locks are in test_storage_locks.py."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from milepost.storage import BLOCK, Storage

MIB = 1 << 20
SIZES = [0, 1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 70_001, 16 * MIB + BLOCK + 3]

Memory = Callable[[int], memoryview]


@contextmanager
def refused(*codes: int) -> Iterator[None]:
    """An OSError with one of these errnos, and no other error."""
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        yield
    assert caught.value.errno in codes, caught.value


def make(storage: Storage, path: str, data: bytes = b"some bytes") -> None:
    writer = storage.create(path, len(data))
    writer.write(data, 0)
    writer.finish(len(data))


def tree(storage: Storage, path: str = "") -> dict[str, bytes | str | None]:
    """All that is under `path`: bytes of files, targets of links, None for folders."""
    found: dict[str, bytes | str | None] = {}
    for name in storage.list(path):
        full = f"{path}/{name}".lstrip("/")
        kind = storage.stat(full).kind
        if kind == "folder":
            found |= {full: None} | tree(storage, full)
        else:
            found[full] = storage.read(full) if kind == "file" else storage.read_link(full)
    return found


# -- writing a large file ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES)
def test_a_written_file_reads_back(storage: Storage, aligned: Memory, size: int) -> None:
    data = aligned(size)
    writer = storage.create("file", size)
    writer.write(data, 0)
    writer.finish(size)
    assert storage.stat("file").size == size
    assert storage.read("file") == data
    out = aligned(size)
    out[:] = bytes(size)
    assert storage.read_into("file", 0, out) == size
    assert out == data


@pytest.mark.parametrize("size", SIZES)
def test_unaligned_memory_is_written_and_read(storage: Storage, aligned: Memory, size: int) -> None:
    data = aligned(size + 1)[1:]
    writer = storage.create("file", size)
    writer.write(data, 0)
    writer.finish(size)
    out = aligned(size + 3)[3:]
    out[:] = bytes(size)
    assert storage.read_into("file", 0, out) == size
    assert out == data


@pytest.mark.parametrize("size", SIZES)
def test_the_buffer_may_be_rounded_up_past_the_end(storage: Storage, aligned: Memory, size: int) -> None:
    data = aligned(size + -size % BLOCK)
    writer = storage.create("file", size)
    writer.write(data, 0)
    writer.finish(size)
    assert storage.stat("file").size == size
    out = aligned(len(data) + BLOCK)
    out[:] = bytes(len(out))
    assert storage.read_into("file", 0, out) == size
    assert out[:size] == data[:size]


@pytest.mark.parametrize("seed", range(6))
def test_pieces_of_any_size_in_any_order(storage: Storage, aligned: Memory, seed: int) -> None:
    choose = random.Random(seed)
    data = aligned(200_000)
    grid = BLOCK if seed < 2 else 1
    cuts = sorted({0, len(data), *(choose.randrange(len(data) // grid) * grid for _ in range(20))})
    pieces = list(pairwise(cuts))
    choose.shuffle(pieces)
    writer = storage.create("file", len(data))
    for start, stop in pieces:
        writer.write(data[start:stop], start)
    writer.finish(len(data))
    assert storage.read("file") == data


def test_the_last_write_wins_where_pieces_overlap(storage: Storage, aligned: Memory) -> None:
    data, over = aligned(8 * BLOCK), bytes(range(256))
    writer = storage.create("file", len(data))
    writer.write(over, BLOCK - 100)  # unaligned, then aligned over it, then unaligned again: one page by both ways
    writer.write(data, 0)
    writer.write(over, 3 * BLOCK - 7)
    writer.finish(len(data))
    expected = bytearray(data)
    expected[3 * BLOCK - 7 : 3 * BLOCK - 7 + len(over)] = over
    assert storage.read("file") == expected


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_buffer_can_be_written(storage: Storage, kind: type) -> None:
    writer = storage.create("file", 3)
    writer.write(kind(b"abc"), 0)
    writer.finish(3)
    assert storage.read("file") == b"abc"


@pytest.mark.parametrize("reserved", [0, 3, 1 * MIB])
def test_the_reserved_size_is_a_guess_only(storage: Storage, reserved: int) -> None:
    writer = storage.create("file", reserved)
    writer.write(b"some bytes", 0)
    writer.finish(10)
    assert storage.read("file") == b"some bytes"
    assert storage.stat("file").size == 10


def test_create_is_exclusive(storage: Storage) -> None:
    make(storage, "file")
    storage.symlink("nowhere", "link")
    storage.make_folder("folder")
    before = tree(storage)
    for path in ("file", "link", "folder"):
        with refused(errno.EEXIST):
            storage.create(path, 10)
    with refused(errno.ENOENT):
        storage.create("missing/file", 10)
    with refused(errno.ENOTDIR):
        storage.create("file/file", 10)
    assert tree(storage) == before


def test_create_is_exclusive_while_the_first_is_unfinished(storage: Storage) -> None:
    writer = storage.create("file", 10)
    with refused(errno.EEXIST):
        storage.create("file", 10)
    writer.abort()
    make(storage, "file")


def test_abort_removes_the_file_and_may_be_repeated(storage: Storage) -> None:
    writer = storage.create("file", 10)
    writer.write(b"abc", 0)
    writer.abort()
    assert storage.list() == []
    writer.abort()
    with refused(errno.EBADF):
        writer.write(b"abc", 0)
    with refused(errno.EBADF):
        writer.finish(3)
    assert storage.list() == []


def test_abort_of_a_file_already_gone(storage: Storage) -> None:
    storage.make_folder("folder")
    removed, moved, cut_off = (storage.create(path, 10) for path in ("removed", "folder/moved", "folder/cut_off"))
    storage.remove("removed")
    removed.abort()
    storage.rename("folder", "fenced")
    moved.abort()
    storage.write("folder", b"a file in the way")
    cut_off.abort()
    assert set(tree(storage)) == {"folder", "fenced", "fenced/moved", "fenced/cut_off"}


def test_abort_leaves_a_file_that_took_the_name(storage: Storage) -> None:
    writer = storage.create("file", 10)
    storage.remove("file")
    storage.write("file", b"another one's")
    writer.abort()
    assert storage.read("file") == b"another one's"


def test_a_finished_file_is_ended(storage: Storage) -> None:
    writer = storage.create("file", 3)
    writer.write(b"abc", 0)
    writer.finish(3)
    with refused(errno.EBADF):
        writer.finish(3)
    with refused(errno.EBADF):
        writer.write(b"x", 0)
    writer.abort()
    assert storage.read("file") == b"abc"


def test_a_file_is_finished_wherever_its_folder_went(storage: Storage) -> None:
    storage.make_folder("folder")
    writer = storage.create("folder/file", 3)
    writer.write(b"abc", 0)
    storage.rename("folder", "moved")
    writer.finish(3)
    assert storage.read("moved/file") == b"abc"


# -- reading ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "offset", [0, 1, BLOCK - 1, BLOCK, BLOCK + 7, 5 * BLOCK, 5 * BLOCK + 9, 5 * BLOCK + 10, 9 * BLOCK]
)
@pytest.mark.parametrize("length", [0, 1, 100, BLOCK, BLOCK + 1, 3 * BLOCK, 20 * BLOCK])
def test_a_part_is_read(storage: Storage, aligned: Memory, offset: int, length: int) -> None:
    data = bytes(aligned(5 * BLOCK + 10))
    make(storage, "file", data)
    expected = data[offset : offset + length]
    assert storage.read("file", offset, length) == expected
    for shift in (0, 8):
        out = aligned(length + shift)[shift:]
        assert storage.read_into("file", offset, out) == len(expected)
        assert out[: len(expected)] == expected
    assert storage.read("file", offset) == data[offset:]


def test_reading_what_is_not_a_file(storage: Storage) -> None:
    storage.make_folder("folder")
    storage.write("file", b"abc")
    for path, code in {"missing": errno.ENOENT, "folder": errno.EISDIR, "file/x": errno.ENOTDIR}.items():
        with refused(code):
            storage.read(path, 0, 10)
        with refused(code):
            storage.read_into(path, 0, memoryview(bytearray(10)))
    with refused(errno.EINVAL):
        storage.read("file", -1, 1)


def test_reading_through_links(storage: Storage) -> None:
    storage.make_folder("step-1")
    storage.make_folder("step-1/deep")
    make(storage, "step-1/deep/file", b"abc")
    storage.symlink("step-1/deep", "latest")
    storage.symlink("latest", "again")
    storage.symlink("again/file", "file")
    out = memoryview(bytearray(3))
    assert storage.read("again/file") == storage.read("file") == b"abc"
    assert storage.read_into("latest/file", 0, out) == 3
    assert storage.list("again") == ["file"]
    storage.sync_dir("latest")


def test_links_in_a_circle(storage: Storage) -> None:
    storage.symlink("b", "a")
    storage.symlink("a", "b")
    with refused(errno.ELOOP):
        storage.read("a")
    with refused(errno.ELOOP):
        storage.list("b/folder")


def test_stat(storage: Storage) -> None:
    storage.make_folder("folder")
    make(storage, "file", b"abc")
    storage.write("other", b"")
    storage.symlink("file", "link")
    assert storage.stat("").kind == storage.stat("folder").kind == "folder"
    file, other, link = storage.stat("file"), storage.stat("other"), storage.stat("link")
    assert (file.kind, file.size, file.links) == ("file", 3, 1)
    assert (other.kind, other.size) == ("file", 0)
    assert link.kind == "link"
    assert len({file.identity, other.identity, link.identity}) == 3
    assert abs(file.mtime - time.time()) < 3600
    with refused(errno.ENOENT):
        storage.stat("missing")


def test_list(storage: Storage) -> None:
    assert storage.list() == []
    for name in ("b", "a", "C", "ä", "step-00000010", "step-00000009", ".hidden"):
        storage.write(name, b"")
    storage.make_folder("folder")
    assert storage.list("folder") == []
    assert storage.list() == sorted(["b", "a", "C", "ä", "step-00000010", "step-00000009", ".hidden", "folder"])
    with refused(errno.ENOENT):
        storage.list("missing")
    with refused(errno.ENOTDIR):
        storage.list("a")


# -- small files ------------------------------------------------------------------------------------------------------
def test_write_is_exclusive_unless_told_to_replace(storage: Storage) -> None:
    storage.write("file", b"1")
    with refused(errno.EEXIST):
        storage.write("file", b"2")
    assert storage.read("file") == b"1"
    storage.write("file", b"22", replace=True)
    storage.write("new", b"3" * 10_000, replace=True)
    assert tree(storage) == {"file": b"22", "new": b"3" * 10_000}


def test_write_that_cannot_be_leaves_nothing_behind(storage: Storage) -> None:
    storage.make_folder("folder")
    storage.write("file", b"1")
    for replace in (False, True):
        with refused(errno.ENOENT):
            storage.write("missing/file", b"2", replace=replace)
        with refused(errno.ENOTDIR):
            storage.write("file/file", b"2", replace=replace)
        with refused(errno.EISDIR, errno.EEXIST):
            storage.write("folder", b"2", replace=replace)
    assert tree(storage) == {"folder": None, "file": b"1"}


def test_replacing_leaves_other_names_of_the_old_file(storage: Storage) -> None:
    storage.write("file", b"old")
    storage.link("file", "second")
    storage.symlink("second", "link")
    storage.write("file", b"new", replace=True)
    storage.write("link", b"a file now", replace=True)
    assert tree(storage) == {"file": b"new", "second": b"old", "link": b"a file now"}


def test_a_reader_sees_the_old_or_the_new_bytes(storage: Storage) -> None:
    contents = {letter * (1 + 5000 * index) for index, letter in enumerate([b"a", b"b", b"c"])}
    storage.write("file", min(contents))
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(storage.read("file"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(15):
            for data in contents:
                storage.write("file", data, replace=True)
    finally:
        done.set()
        reader.join()
    assert seen
    assert seen <= contents
    assert storage.list() == ["file"]


def test_append(storage: Storage) -> None:
    storage.make_folder("folder")
    storage.append("log", b"one\n")
    storage.append("log", b"two\n", sync=True)
    storage.append("log", b"")
    storage.append("empty", b"")
    assert tree(storage) == {"folder": None, "log": b"one\ntwo\n", "empty": b""}
    with refused(errno.ENOENT):
        storage.append("missing/log", b"x")
    with refused(errno.EISDIR):
        storage.append("folder", b"x")


def test_appended_lines_do_not_mix(storage: Storage) -> None:
    def append(letter: str) -> None:
        for number in range(50):
            storage.append("log", f"{letter * 500}{number}\n".encode())

    threads = [threading.Thread(target=append, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = storage.read("log").decode().splitlines()
    for letter in "abcd":
        assert [line for line in lines if line[0] == letter] == [f"{letter * 500}{number}" for number in range(50)]
    assert len(lines) == 200


def test_touch(storage: Storage) -> None:
    storage.write("file", b"abc")
    before = storage.stat("file").mtime
    time.sleep(0.05)
    storage.touch("file")
    assert storage.stat("file").mtime > before
    assert storage.read("file") == b"abc"
    with refused(errno.ENOENT):
        storage.touch("missing")


# -- folders ----------------------------------------------------------------------------------------------------------
def test_make_folder_makes_one_folder(storage: Storage) -> None:
    storage.make_folder("a")
    storage.make_folder("a/b")
    storage.write("file", b"")
    storage.symlink("nowhere", "link")
    for path in ("a", "a/b", "file", "link"):
        with refused(errno.EEXIST):
            storage.make_folder(path)
    with refused(errno.ENOENT):
        storage.make_folder("missing/folder")
    with refused(errno.ENOTDIR):
        storage.make_folder("file/folder")
    assert storage.list() == ["a", "file", "link"]


def test_make_root(storage: Storage) -> None:
    storage.make_root()
    run = storage.child("runs/mnist")
    run.make_root()
    run.make_root()
    run.write("file", b"1")
    storage.child("runs").make_root()
    assert tree(storage) == {"runs": None, "runs/mnist": None, "runs/mnist/file": b"1"}
    for path in ("runs/mnist/file", "runs/mnist/file/below"):
        with refused(errno.ENOTDIR, errno.EEXIST):
            storage.child(path).make_root()
    assert storage.read("runs/mnist/file") == b"1"


def test_sync_dir(storage: Storage) -> None:
    storage.make_folder("folder")
    storage.write("file", b"")
    storage.sync_dir()
    storage.sync_dir("folder")
    with refused(errno.ENOENT):
        storage.sync_dir("missing")
    with refused(errno.ENOTDIR):
        storage.sync_dir("file")


def test_child(storage: Storage) -> None:
    child = storage.child("a").child("b")
    with refused(errno.ENOENT):
        child.list()
    with refused(errno.ENOENT):
        child.write("file", b"x")
    child.make_root()
    make(child, "file", b"abc")
    child.rename("file", "new")
    assert tree(storage) == {"a": None, "a/b": None, "a/b/new": b"abc"}
    assert child.list() == storage.list("a/b") == ["new"]
    assert child.root == f"{storage.root.rstrip('/')}/a/b"
    assert storage.child("").list() == ["a"]


# -- names ------------------------------------------------------------------------------------------------------------
def test_rename_a_file(storage: Storage) -> None:
    storage.make_folder("folder")
    make(storage, "a", b"1")
    make(storage, "b", b"2")
    storage.rename("a", "folder/c")
    storage.rename("b", "folder/c")
    assert tree(storage) == {"folder": None, "folder/c": b"2"}


def test_rename_a_folder(storage: Storage) -> None:
    for path in ("work", "work/step", "empty", "full"):
        storage.make_folder(path)
    make(storage, "work/step/file", b"1")
    make(storage, "full/file", b"2")
    storage.rename("work/step", "empty")
    assert storage.read("empty/file") == b"1"
    with refused(errno.ENOTEMPTY):
        storage.rename("empty", "full")
    storage.rename("full", "new")
    assert tree(storage) == {"work": None, "empty": None, "empty/file": b"1", "new": None, "new/file": b"2"}


def test_rename_that_cannot_be(storage: Storage) -> None:
    storage.make_folder("folder")
    storage.make_folder("folder/below")
    storage.write("file", b"1")
    before = tree(storage)
    for source, target, code in [
        ("missing", "new", errno.ENOENT),
        ("missing/file", "new", errno.ENOENT),
        ("file", "missing/new", errno.ENOENT),
        ("file", "folder", errno.EISDIR),
        ("folder", "file", errno.ENOTDIR),
        ("folder", "folder/below/new", errno.EINVAL),
        ("folder/below", "folder", errno.ENOTEMPTY),
    ]:
        with refused(code):
            storage.rename(source, target)
        assert tree(storage) == before


def test_rename_of_a_link_moves_the_link(storage: Storage) -> None:
    storage.write("file", b"1")
    storage.symlink("file", "link")
    storage.rename("link", "moved")
    storage.write("other", b"2")
    storage.rename("other", "moved")
    assert tree(storage) == {"file": b"1", "moved": b"2"}


def test_rename_to_another_name_of_the_same_file_does_nothing(storage: Storage) -> None:
    storage.write("a", b"1")
    storage.link("a", "b")
    storage.rename("a", "b")
    assert tree(storage) == {"a": b"1", "b": b"1"}


def test_exchange(storage: Storage) -> None:
    for path in ("one", "work", "work/two"):
        storage.make_folder(path)
    storage.write("one/file", b"1")
    storage.write("work/two/file", b"2")
    storage.write("file", b"3")
    storage.exchange("one", "work/two")
    assert storage.read("one/file") == b"2"
    assert storage.read("work/two/file") == b"1"
    storage.exchange("file", "one")
    storage.exchange("file", "file")
    assert storage.read("file/file") == b"2"
    assert storage.read("one") == b"3"


def test_exchange_that_cannot_be(storage: Storage) -> None:
    storage.make_folder("folder")
    storage.write("folder/file", b"1")
    before = tree(storage)
    with refused(errno.ENOENT):
        storage.exchange("folder", "missing")
    with refused(errno.ENOENT):
        storage.exchange("missing", "folder")
    for pair in (("folder", "folder/file"), ("folder/file", "folder")):
        with refused(errno.EINVAL):
            storage.exchange(*pair)
    assert tree(storage) == before


def test_link(storage: Storage) -> None:
    storage.make_folder("folder")
    make(storage, "file", b"1")
    storage.link("file", "folder/second")
    first, second = storage.stat("file"), storage.stat("folder/second")
    assert first.identity == second.identity
    assert (first.links, second.links) == (2, 2)
    storage.remove("file")
    assert tree(storage) == {"folder": None, "folder/second": b"1"}
    assert storage.stat("folder/second").links == 1


def test_link_that_cannot_be(storage: Storage) -> None:
    storage.make_folder("folder")
    storage.write("file", b"1")
    storage.write("other", b"2")
    before = tree(storage)
    for source, target, code in [
        ("missing", "new", errno.ENOENT),
        ("file", "missing/new", errno.ENOENT),
        ("file", "other", errno.EEXIST),
        ("file", "folder", errno.EEXIST),
        ("folder", "new", errno.EPERM),
    ]:
        with refused(code):
            storage.link(source, target)
    assert tree(storage) == before


def test_symlink(storage: Storage) -> None:
    storage.make_folder("folder")
    storage.write("file", b"1")
    storage.symlink("step-1", "latest")
    storage.symlink("folder", "latest")
    storage.symlink("file", "folder/dangling")
    assert tree(storage) == {"folder": None, "folder/dangling": "file", "file": b"1", "latest": "folder"}
    for path in ("folder", "file"):
        with refused(errno.EEXIST):
            storage.symlink("step-1", path)
        with refused(errno.EINVAL):
            storage.read_link(path)
    with refused(errno.ENOENT):
        storage.read_link("missing")
    with refused(errno.ENOENT):
        storage.symlink("file", "missing/link")
    assert storage.list() == ["file", "folder", "latest"]


def test_remove(storage: Storage) -> None:
    storage.make_folder("folder")
    make(storage, "file")
    storage.symlink("folder", "link")
    storage.remove("file")
    storage.remove("link")
    with refused(errno.EISDIR):
        storage.remove("folder")
    with refused(errno.ENOENT):
        storage.remove("file")
    assert tree(storage) == {"folder": None}


def test_remove_tree(storage: Storage) -> None:
    for path in ("keep", "gone", "gone/deep", "gone/deep/deeper", "gone/empty"):
        storage.make_folder(path)
    make(storage, "keep/file", b"1")
    make(storage, "gone/deep/deeper/read-only")
    storage.write("gone/file", b"2")
    storage.link("keep/file", "gone/shared")
    storage.symlink("keep", "beside")
    storage.symlink("keep/file", "to-file")
    storage.rename("beside", "gone/to-folder")
    storage.rename("to-file", "gone/deep/to-file")
    storage.remove_tree("gone")
    assert tree(storage) == {"keep": None, "keep/file": b"1"}


def test_remove_tree_of_a_link_a_file_and_nothing(storage: Storage) -> None:
    storage.make_folder("keep")
    storage.write("keep/file", b"1")
    storage.symlink("keep", "link")
    storage.write("file", b"2")
    for path in ("link", "file", "file", "missing", "missing/deep"):
        storage.remove_tree(path)
    assert tree(storage) == {"keep": None, "keep/file": b"1"}


def test_remove_tree_by_two_at_once(storage: Storage) -> None:
    for folder in range(10):
        storage.child(f"tree/{folder}").make_root()
        for file in range(20):
            storage.append(f"tree/{folder}/{file}", b"")
    failures: list[BaseException] = []

    def remove() -> None:
        try:
            storage.remove_tree("tree")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=remove) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert storage.list() == []


# -- paths ------------------------------------------------------------------------------------------------------------
OPERATIONS: dict[str, Callable[[Storage, str], object]] = {
    "stat": lambda storage, path: storage.stat(path),
    "list": lambda storage, path: storage.list(path),
    "read": lambda storage, path: storage.read(path),
    "read_into": lambda storage, path: storage.read_into(path, 0, memoryview(bytearray(10))),
    "read_link": lambda storage, path: storage.read_link(path),
    "make_folder": lambda storage, path: storage.make_folder(path),
    "create": lambda storage, path: storage.create(path, 10),
    "write": lambda storage, path: storage.write(path, b"x"),
    "replace": lambda storage, path: storage.write(path, b"x", replace=True),
    "append": lambda storage, path: storage.append(path, b"x"),
    "touch": lambda storage, path: storage.touch(path),
    "sync_dir": lambda storage, path: storage.sync_dir(path),
    "rename from": lambda storage, path: storage.rename(path, "new"),
    "rename to": lambda storage, path: storage.rename("file", path),
    "exchange first": lambda storage, path: storage.exchange(path, "file"),
    "exchange second": lambda storage, path: storage.exchange("file", path),
    "link from": lambda storage, path: storage.link(path, "new"),
    "link to": lambda storage, path: storage.link("file", path),
    "symlink": lambda storage, path: storage.symlink("file", path),
    "symlink target": lambda storage, path: storage.symlink(path, "new"),
    "remove": lambda storage, path: storage.remove(path),
    "remove_tree": lambda storage, path: storage.remove_tree(path),
    "lock": lambda storage, path: storage.lock(path),
    "locked": lambda storage, path: storage.locked(path),
    "child": lambda storage, path: storage.child(path),
}
ROOT_IS_FINE = {"stat", "list", "sync_dir", "child"}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_paths_stay_inside_the_storage(storage: Storage, operation: str) -> None:
    storage.make_folder("folder")
    storage.write("file", b"1")
    before = tree(storage)
    bad = ["/", "/file", "..", "../file", "folder/..", "folder/../file", ".", "./file", "folder/.", "a//b", "folder/"]
    for path in [*bad, "a\0b", *([] if operation in ROOT_IS_FINE else [""])]:
        with refused(errno.EINVAL):
            OPERATIONS[operation](storage, path)
    assert tree(storage) == before


def test_names_may_be_any_text(storage: Storage) -> None:
    names = ["a b", "ä€😀", "-rf", "a\nb", "..a", "...", "*", "\\", "a" * 255, "\x1b]52;c;x\a"]
    for name in names:
        storage.write(name, name.encode(), replace=True)
        storage.symlink("target", f"{name[:200]}.link")
    assert set(storage.list()) == {*names, *(f"{name[:200]}.link" for name in names)}
    for name in names:
        assert storage.read(name) == name.encode()


def test_free_space(storage: Storage) -> None:
    assert storage.free_space() > 0


def test_it_is_a_storage(storage: Storage) -> None:
    assert isinstance(storage, Storage)
