"""Disks that are full, fail or refuse: the last good checkpoint stays, training goes on, and a person is told."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_jobs import (
    folder_fixture,  # noqa: F401
    in_child,
    keep,
    kept,
)

import milepost
from milepost.errors import DiskFullError, MilepostError, MilepostWarning, SaveFailedError, StorageError
from milepost.pipeline import persist
from milepost.storage.faults import FaultyStorage, Operation, fail
from milepost.storage.local import LocalStorage
from milepost.training import checkpointer


class Disk:
    """What fails, with which error; nothing while `fails` is None."""

    def __init__(self) -> None:
        self.fails: Callable[[Operation], bool] | None = None
        self.code = errno.ENOSPC
        self.struck = 0

    def strikes(self, operation: Operation) -> bool:
        struck = self.fails is not None and self.fails(operation)
        self.struck += struck
        return struck


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()

    def storage(directory: Any) -> FaultyStorage:
        return FaultyStorage(LocalStorage(directory), [fail(made.strikes, made.code)])

    monkeypatch.setattr(checkpointer, "LocalStorage", storage)
    monkeypatch.setattr(persist, "RETRY_AFTER_SECONDS", (0.001, 0.001))
    return made


AT = {
    "before it begins": lambda one: one.name == "make_folder" and "step-" in one.paths[0],
    "making a file": lambda one: one.name == "create",
    "in the middle of a file": lambda one: one.name == "writer.write" and "safetensors" in one.paths[0],
    "syncing a file": lambda one: one.name == "writer.finish",
    "writing the manifest": lambda one: one.name == "writer.write" and "manifest" in one.paths[0],
    "syncing names": lambda one: one.name == "sync_dir" and "work" in one.paths[0],
    "renaming": lambda one: one.name == "rename" and one.paths[1].startswith("step-"),
}


def train(directory: Path, script: Callable[[Any, Callable[[], None]], None], **options: Any) -> Any:
    run = milepost.Checkpointer(directory, w=np.zeros(1000), progress=False, **options)

    def step() -> None:
        run.step(w=run["w"] + 1)

    with run:
        script(run, step)
    return run


def visible(directory: Path) -> list[int]:
    """The steps on disk, each verified to be what it says."""
    found = []
    for one in sorted(directory.glob("step-*")):
        source = milepost.open(one)
        assert np.array_equal(source["w"], np.full(1000, float(one.name[5:])))
        found.append(int(one.name[5:]))
    return found


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("point", AT)
def test_a_save_that_fails(point: str, code: int, folder: Path, disk: Disk) -> None:
    disk.code = code

    def script(run: Any, step: Callable[[], None]) -> None:
        step()
        run.save()
        run.wait()
        disk.fails = AT[point]
        step()
        pending = run.save()
        with pytest.raises(SaveFailedError) as caught:
            pending.result(timeout=60)
        assert caught.value.hint
        assert caught.value.where == str(folder)
        assert isinstance(caught.value.__cause__, OSError)
        assert visible(folder) == [1], "the last good checkpoint stays"
        with pytest.warns(MilepostWarning, match="training goes on"):
            step()
        disk.fails = None
        step()
        assert run.save().result(timeout=60).step == 4, "a later save succeeds"
        assert visible(folder) == [1, 4]

    run = train(folder, script)
    assert disk.struck >= 3, "the first try and two more"
    assert run.progress.step == 4
    assert not list(folder.glob("attempts/*.work"))


def test_a_transient_error_is_retried_into_a_new_file(folder: Path, disk: Disk) -> None:
    disk.code = errno.EIO
    left = [2]

    def strikes(one: Operation) -> bool:
        if one.name != "writer.finish" or not left[0]:
            return False
        left[0] -= 1
        return True

    def script(run: Any, step: Callable[[], None]) -> None:
        step()
        disk.fails = strikes
        assert run.save().result(timeout=60).step == 1

    train(folder, script)
    assert disk.struck == 2
    assert visible(folder) == [1]


def test_what_is_no_passing_trouble_is_not_retried(folder: Path, disk: Disk) -> None:
    disk.code = errno.EROFS

    def script(run: Any, step: Callable[[], None]) -> None:
        step()
        disk.fails = AT["making a file"]
        with pytest.raises(SaveFailedError, match="Read-only"):
            run.save().result(timeout=60)
        disk.fails = None
        with pytest.warns(MilepostWarning):
            step()

    train(folder, script)
    assert disk.struck == 1
    assert visible(folder) == [2]


def test_raise_at_the_next_call(folder: Path, disk: Disk) -> None:
    def script(run: Any, step: Callable[[], None]) -> None:
        step()
        run.save()
        run.wait()
        disk.fails = AT["making a file"]
        step()
        with pytest.raises(SaveFailedError):
            run.save().result(timeout=60)
        step()

    with pytest.raises(SaveFailedError, match="step 2"):
        train(folder, script, on_error="raise")
    assert visible(folder) == [1]


def test_wait_raises_too_if_asked_to(folder: Path, disk: Disk) -> None:
    def script(run: Any, step: Callable[[], None]) -> None:
        step()
        disk.fails = AT["making a file"]
        run.save()
        run.wait()

    with pytest.raises(SaveFailedError):
        train(folder, script, on_error="raise")


@pytest.mark.filterwarnings("ignore::milepost.errors.MilepostWarning")
def test_closing_raises_if_the_newest_save_failed(folder: Path, disk: Disk) -> None:
    def script(run: Any, step: Callable[[], None]) -> None:
        step()
        run.save()
        run.wait()
        disk.fails = AT["in the middle of a file"]
        step()

    with pytest.raises(SaveFailedError, match="step 2"):
        train(folder, script)
    disk.fails = None
    assert visible(folder) == [1]
    run = train(folder, lambda run, step: step())
    assert run.resumed_from == "step-00000001"
    assert not run.complete, "what could not be saved was not the end"
    assert visible(folder) == [1, 2]


def test_an_exception_of_the_script_is_not_masked_by_a_save_that_fails(folder: Path, disk: Disk) -> None:
    def script(run: Any, step: Callable[[], None]) -> None:
        step()
        disk.fails = AT["making a file"]
        run.save()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(folder, script)


def test_the_trace_is_never_needed(folder: Path, disk: Disk) -> None:
    disk.fails = lambda one: one.name == "append"
    train(folder, lambda run, step: [step() for _ in range(3)] and None)
    assert disk.struck == 1, "given up after the first refusal"
    assert visible(folder) == [3]


def test_what_is_tidied_up_late_does_not_harm_the_save(folder: Path, disk: Disk, capsys: Any) -> None:
    def script(run: Any, step: Callable[[], None]) -> None:
        for _ in range(2):
            step()
            run.save()
            run.wait()
        disk.fails = lambda one: one.name == "rename" and "trash" in one.paths[-1]
        step()
        assert run.save().result(timeout=60).step == 3
        run.wait()
        disk.fails = None

    train(folder, script, keep=milepost.Keep(last=1))
    assert disk.struck >= 1
    assert "could not be tidied up" in capsys.readouterr().err
    assert 3 in visible(folder)


@pytest.mark.parametrize("name", ["make_root", "make_folder", "write", "lock"])
def test_a_run_that_cannot_be_opened(name: str, folder: Path, disk: Disk) -> None:
    disk.fails = lambda one: one.name == name
    with pytest.raises(DiskFullError) as caught:
        milepost.Checkpointer(folder / "run", w=np.zeros(2), progress=False)
    assert str(folder / "run") in (caught.value.where or "")
    assert "room" in (caught.value.hint or "")
    disk.fails = None
    with milepost.Checkpointer(folder / "run", w=np.zeros(2), progress=False) as run:
        run.step(w=np.ones(2))


# -- for real ----------------------------------------------------------------------------------------------------------------


def test_a_real_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """No test double: the kernel itself refuses to write more."""

    def child() -> None:
        persist.RETRY_AFTER_SECONDS = (0.001,)  # type: ignore[assignment]
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        run = milepost.Checkpointer(tmp_path / "run", w=np.zeros(1 << 16), progress=False)
        run.step(w=run["w"] + 1)
        run.save()
        run.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, hard))
        run.step(w=run["w"] + 1)
        try:
            run.save().result(timeout=60)
        except SaveFailedError as error:
            keep(tmp_path / "error", (str(error), type(error.__cause__).__name__))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with pytest.warns(MilepostWarning):
            run.step(w=run["w"] + 1)
        run.close()

    assert in_child(child) == 0
    message, cause = kept(tmp_path / "error")
    assert "File too large" in message
    assert cause == "OSError"
    assert sorted(one.name for one in (tmp_path / "run").glob("step-*")) == ["step-00000001", "step-00000003"]


def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    with milepost.Checkpointer(tmp_path / "run", w=np.zeros(2), progress=False) as run:
        run.step(w=np.ones(2))
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    for folder in (sealed, *(one for one in (tmp_path / "run").rglob("*") if one.is_dir()), tmp_path / "run"):
        folder.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    said = tmp_path / "said"
    said.mkdir(mode=0o777)
    said.chmod(0o777)

    def child() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        for number, directory in enumerate((tmp_path / "run", sealed / "run")):
            try:
                milepost.Checkpointer(directory, w=np.zeros(2), progress=False)
            except MilepostError as error:
                keep(said / str(number), (type(error), str(error), error.where, error.hint))

    assert in_child(child) == 0
    for number in (0, 1):
        kind, message, where, hint = kept(said / str(number))
        assert kind is StorageError
        assert "Permission denied" in message
        assert str(tmp_path) in where
        assert "permissions" in hint
    assert visible_steps(tmp_path / "run") == ["step-00000001"]


def visible_steps(directory: Path) -> list[str]:
    return sorted(one.name for one in directory.glob("step-*"))


@pytest.mark.parametrize("place", ["run", "run/inner"])
def test_a_file_where_the_run_should_be(place: str, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("something else")
    with pytest.raises(StorageError, match="cannot make the run directory") as caught:
        milepost.Checkpointer(tmp_path / place, w=np.zeros(2))
    assert "a file is where" in (caught.value.hint or "")
    assert (tmp_path / "run").read_text() == "something else"
