"""The process that parses HDF5: its bounds hold, what it dies of is an error, and threads and forks get answers of their own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

import milepost
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats import child
from milepost.formats.hdf5 import Hdf5
from milepost.formats.hdf5_child import MEMORY

COUNT = 40


@pytest.fixture
def source(tmp_path: Path) -> Hdf5:
    """Arrays that only the process can read, in a file of its own."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for number in range(COUNT):
            file.create_dataset(str(number), data=np.full(1000, number), chunks=(300,))
    opened = milepost.open(tmp_path / "x.h5")
    assert isinstance(opened, Hdf5)
    return opened


def pid(source: Hdf5) -> int:
    assert source._child is not None
    assert source._child._process is not None
    return source._child._process.pid


def right(source: Hdf5) -> bool:
    return all(set(source[str(number)]) == {number} for number in range(COUNT))


@pytest.mark.parametrize(
    ("ended", "why"), [(signal.SIGSEGV, "damaged or made to mislead"), (signal.SIGPROF, "processor time")]
)
def test_what_it_dies_of_is_an_error_and_the_next_question_is_answered(
    source: Hdf5, ended: signal.Signals, why: str
) -> None:
    first = pid(source)
    os.kill(first, ended)
    with pytest.raises(FormatError, match=why) as caught:
        source["1"]
    assert caught.value.where == source.where
    assert ended.name in str(caught.value.found)
    assert right(source)
    assert pid(source) != first


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(
    source: Hdf5, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(pid(source), signal.SIGSTOP)
    with monkeypatch.context() as impatient:
        impatient.setattr(child, "PATIENCE", 0.01)
        with pytest.raises(FormatError, match="does not answer"):
            source["1"]
    assert right(source)


def test_memory_and_processor_time_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("w", (1 << 22,), "f8", chunks=(1 << 22,), compression="gzip", shuffle=True)
        file["w"][:1] = 1.0
    source = milepost.open(tmp_path / "x.h5")
    assert isinstance(source, Hdf5)
    assert source._child is not None
    out, question = memoryview(bytearray(1 << 25)), {"do": "read", "path": "w", "nbytes": 1 << 25}
    with pytest.raises(FormatError, match=r"more memory|cannot be understood"):
        source._child.ask(out, seconds=5, memory=(1 << 24) - MEMORY, **question)
    with pytest.raises(FormatError, match="too much processor time"):
        source._child.ask(out, seconds=0.004, **question)
    monkeypatch.setenv("MILEPOST_BOUNDS", "10000")
    source._child.ask(out, seconds=0.004, **question)
    assert source["w"].sum() == 1
    monkeypatch.undo()
    source = milepost.open(tmp_path / "x.h5")
    assert isinstance(source, Hdf5)
    assert source["w"].sum() == 1
    peak = Path(f"/proc/{pid(source)}/status").read_text().partition("VmPeak:")[2].split()[0]
    bound = Path(f"/proc/{pid(source)}/limits").read_text().partition("Max address space")[2].split()[0]
    assert int(peak) * 1024 <= int(bound)


def test_it_cannot_write(source: Hdf5) -> None:
    limits = Path(f"/proc/{pid(source)}/limits").read_text()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}
    assert soft["Max file size"] == soft["Max core file size"] == "0"


def test_threads_get_the_answers_to_their_own_questions(source: Hdf5) -> None:
    wrong: list[object] = []
    threads = [threading.Thread(target=lambda: right(source) or wrong.append(1)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_processes_have_one_each(source: Hdf5) -> None:
    assert source._child is not None
    with source._child._lock:  # as another thread might, which does not live in the forked process
        forked = os.fork()
        if not forked:
            os._exit(0 if right(source) else 1)
    mine = pid(source)
    assert right(source)
    assert os.waitpid(forked, 0)[1] == 0
    assert right(source)
    assert pid(source) == mine


def test_it_ends_with_the_source(source: Hdf5) -> None:
    alive = pid(source)
    assert source._child is not None
    source._child.forget(end=True)
    with pytest.raises(ProcessLookupError):
        os.kill(alive, 0)
    assert right(source)
    alive = pid(source)
    source._child = None
    with pytest.raises(ProcessLookupError):
        os.kill(alive, 0)


def test_what_the_program_has_in_its_environment_loads_no_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((4,))
        how.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
        kind = h5py.h5t.STD_I64LE
        packed = h5py.h5d.create(file.id, b"w", kind, h5py.h5s.create_simple((4,)), how)
        packed.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(4))
    loaded = tmp_path / "plugins" / "libfilter.so"
    loaded.parent.mkdir()
    loaded.write_bytes(Path(h5py.h5z.__file__).read_bytes())
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(loaded.parent))
    opened = milepost.open(tmp_path / "x.h5")
    assert isinstance(opened, Hdf5)
    with pytest.raises(FormatError, match="unknown way"):
        opened["w"]
    environment = Path(f"/proc/{pid(opened)}/environ").read_bytes()
    assert b"HDF5_PLUGIN_PATH" not in environment
    assert b"HDF5_PLUGIN_PRELOAD=::" in environment
    assert str(loaded) not in Path(f"/proc/{pid(opened)}/maps").read_text()


def test_a_chunk_that_unpacks_without_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("large", (1 << 28,), "u1", chunks=(1 << 28,), compression="gzip")
        small = file.create_dataset("small", (1 << 20,), "u1", chunks=(1 << 20,), compression="gzip")
        small.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 28), 9))  # 256 MB for a chunk of 1
    source = milepost.open(tmp_path / "x.h5")
    assert isinstance(source, Hdf5)
    with pytest.raises(UnsafeContentError):
        source["large"]
    with pytest.raises(FormatError):
        source["small"]


def test_modules_beside_the_file_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["w"] = [1.0]
    (tmp_path / "h5py.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) in sys.path
    assert milepost.open("x.h5")["w"].tolist() == [1.0]
