"""A run directory of a group: one person begins, others read and continue."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_jobs import in_child, keep, kept

import milepost
from milepost.cli.main import main
from milepost.errors import MilepostError, StorageError

GROUP, STRANGERS = 4242, 4343
ANNA, BERT, CARL = 5001, 5002, 5003

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="to be several people in turn, one must be root")


@pytest.fixture(autouse=True, scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is loaded when it is first needed is loaded now: Python's own files may be out of reach for others than root."""
    run = tmp_path_factory.mktemp("loaded") / "run"
    for until in (3, 6):
        train(run, until)()
    milepost.open(run)["w"]
    assert main(["tag", f"{run}@latest", "first"]) == main(["prune", str(run), "--yes"]) == 0
    with (
        milepost.Checkpointer(run, w=np.zeros(3), base=np.arange(5000.0), progress=False),
        pytest.raises(MilepostError),
    ):
        train(run, 6)()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A setgid folder of a group, where everybody can get to."""
    top = Path(tempfile.mkdtemp(dir="/var/tmp"))  # not in memory: that may be another's
    top.chmod(0o755)
    folder = top / "shared"
    folder.mkdir()
    os.chown(folder, ANNA, GROUP)
    folder.chmod(0o2775)
    results = top / "results"
    results.mkdir(mode=0o777)
    results.chmod(0o777)
    yield folder
    shutil.rmtree(top)


def as_person(user: int, call: Callable[[], Any], *, group: int = GROUP, umask: int = 0o002) -> int:
    """Run `call` in a process of that person."""

    def script() -> None:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
        os.umask(umask)
        call()

    return in_child(script)


def train(run_directory: Path, until: int, **options: Any) -> Callable[[], None]:
    """Train until a step, saving each; the first item never changes, so that checkpoints share its file."""

    def script() -> None:
        given = {"keep": milepost.Keep(last=2), "every": milepost.Every(steps=1), "progress": False, **options}
        with milepost.Checkpointer(run_directory, base=np.arange(5000.0), w=np.zeros(3), **given) as run:
            for _ in run.steps(until):
                run.step(base=run["base"], w=run["w"] + 1)

    return script


def steps(folder: Path) -> list[int]:
    return sorted(int(one.name[5:]) for one in folder.glob("step-*"))


def test_others_of_the_group_read_and_continue(shared: Path) -> None:
    run = shared / "run"
    assert as_person(ANNA, train(run, 3)) == 0
    assert as_person(BERT, train(run, 6)) == 0
    assert steps(run) == [5, 6], "retention removed what another had written"
    assert as_person(ANNA, train(run, 8)) == 0
    assert steps(run) == [7, 8]
    for path in (run, *run.rglob("*")):
        found = path.lstat()
        assert found.st_gid == GROUP, path
        if path.is_dir() and not path.is_symlink():
            assert found.st_mode & 0o2070 == 0o2070, f"the group can write in {path}"
    for one in run.glob("step-*"):
        source = milepost.open(one)
        assert np.array_equal(source["w"], np.full(3, float(one.name[5:])))
        assert np.array_equal(source["base"], np.arange(5000.0))


def test_what_cannot_be_linked_to_is_written(shared: Path) -> None:
    """Linux lets nobody link to files of others that he may not write (fs.protected_hardlinks)."""
    run = shared / "run"
    keep_all: dict[str, Any] = {"keep": milepost.Keep(last=None)}
    assert as_person(ANNA, train(run, 2, **keep_all)) == 0
    assert as_person(BERT, train(run, 4, **keep_all)) == 0
    files = [run / f"step-{step:08d}" / "base.safetensors" for step in (1, 2, 3, 4)]
    assert files[0].samefile(files[1])
    assert files[2].samefile(files[3])
    assert files[2].stat().st_uid == (BERT if not files[2].samefile(files[1]) else ANNA)
    assert len({file.read_bytes() for file in files}) == 1


def test_others_tag_and_prune(shared: Path) -> None:
    run = shared / "run"
    assert as_person(ANNA, train(run, 3, keep=milepost.Keep(last=None))) == 0

    def tidy() -> None:
        assert main(["tag", f"{run}@step=1", "first"]) == 0
        assert main(["prune", str(run), "--last", "1", "--yes"]) == 0

    assert as_person(BERT, tidy) == 0
    assert steps(run) == [1, 3]


def test_people_outside_of_the_group_may_only_look(shared: Path) -> None:
    run, said = shared / "run", shared.parent / "results" / "carl"
    assert as_person(ANNA, train(run, 3)) == 0

    def look() -> None:
        source = milepost.open(run)
        assert np.array_equal(source["w"], np.full(3, 3.0))
        try:
            train(run, 6)()
        except StorageError as error:
            keep(said, (str(error), error.hint))

    assert as_person(CARL, look, group=STRANGERS) == 0
    message, hint = kept(said)
    assert "Permission denied" in message
    assert "permissions" in hint
    assert steps(run) == [2, 3]


def test_who_shuts_the_group_out_is_named(shared: Path) -> None:
    """A private umask in a shared folder: the other is told where it fails, and nothing is lost."""
    run, said = shared / "run", shared.parent / "results" / "bert"
    assert as_person(ANNA, train(run, 3), umask=0o077) == 0

    def script() -> None:
        try:
            train(run, 6)()
        except StorageError as error:
            keep(said, (str(error), error.where, error.hint))

    assert as_person(BERT, script) == 0
    message, where, hint = kept(said)
    assert "Permission denied" in message
    assert str(run) in where
    assert "permissions" in hint
    assert steps(run) == [2, 3]


def test_two_at_once_are_told_who(shared: Path) -> None:
    run, said = shared / "run", shared.parent / "results" / "bert"

    def anna() -> None:
        with milepost.Checkpointer(run, w=np.zeros(3), progress=False) as mine:
            mine.step(w=np.ones(3))

            def bert() -> None:
                os.umask(0o002)
                try:
                    milepost.Checkpointer(run, w=np.zeros(3), progress=False)
                except MilepostError as error:
                    keep(said, (type(error).__name__, str(error)))

            pid = os.fork()
            if not pid:
                bert()
                os._exit(0)
            os.waitpid(pid, 0)

    assert as_person(ANNA, anna) == 0
    kind, message = kept(said)
    assert kind == "RunBusy"
    assert "is alive" in message or "process" in message
