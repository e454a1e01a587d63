"""A step that is there already: saved again by the same attempt, or by a later one; with and without exchange of names."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from milepost.errors import RunFenced
from milepost.folder.checkpoint import Checkpoint
from milepost.storage.base import Storage
from milepost.storage.faults import FaultyStorage, Operation, fail, on
from milepost.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from harness.driving import Job

CANNOT = ("EINVAL", "ENOSYS", "ENOTSUP", "EPERM")


def state(value: float) -> dict[str, Any]:
    return {"model": {"w": np.full(2000, value, np.float32)}}


def values(storage: Storage) -> dict[str, float]:
    """Folder -> what was saved in it."""
    return {
        name: float(Checkpoint(storage.child(name))["model/w"][0])
        for name in storage.list()
        if name.startswith("step-")
    }


@pytest.fixture(params=["exchange", *CANNOT])
def process(request: pytest.FixtureRequest, disk: MemoryStorage) -> FaultyStorage:
    """A storage that exchanges names, or refuses to in one of the ways storages do."""
    refuse = [] if request.param == "exchange" else [fail(on("exchange"), getattr(errno, request.param))]
    return FaultyStorage(disk, refuse)


def test_the_same_attempt_replaces_it(disk: MemoryStorage, process: Storage, open_job: Callable[..., Job]) -> None:
    job = open_job(process)
    for value in (1, 2, 3):
        saved = job.commit(5, state(value), val_loss=value)
        assert saved.folder == "step-00000005"
    assert values(disk) == {"step-00000005": 3}
    assert Checkpoint(disk.child("step-00000005")).manifest.summary.metrics == {"val_loss": 3.0}
    assert disk.list("attempts/1.work") == []


def test_a_later_attempt_sets_it_aside(disk: MemoryStorage, process: Storage, open_job: Callable[..., Job]) -> None:
    for attempt, resume in ((1, "latest"), (2, "step=1"), (3, "step=1")):
        job = open_job(process, resume=resume)
        for step in (1, 2, 3) if attempt == 1 else (2, 3):
            job.commit(step, state(10 * attempt + step))
        job.end()
    assert values(disk) == {
        "step-00000001": 11,
        "step-00000002": 32,
        "step-00000002.superseded-1": 12,
        "step-00000002.superseded-2": 22,
        "step-00000003": 33,
        "step-00000003.superseded-1": 13,
        "step-00000003.superseded-2": 23,
    }


def test_a_name_that_is_taken_gets_a_number(
    disk: MemoryStorage, process: Storage, open_job: Callable[..., Job]
) -> None:
    first = open_job(process)
    first.commit(1, state(1))
    first.end()
    for folder in ("step-00000001.superseded-1", "step-00000001.superseded-1.2"):
        disk.make_folder(folder)
    second = open_job(process, resume="never")
    second.commit(1, state(2))
    assert values_of(disk, "step-00000001", "step-00000001.superseded-1.3") == [2, 1]


def values_of(storage: Storage, *folders: str) -> list[float]:
    return [float(Checkpoint(storage.child(folder))["model/w"][0]) for folder in folders]


def test_what_another_run_or_a_newer_milepost_wrote_is_set_aside_too(
    disk: MemoryStorage, process: Storage, open_job: Callable[..., Job]
) -> None:
    job = open_job(process)
    job.commit(1, state(1))
    for step, old, new in ((2, b'"run":"', b'"run":"x'), (3, b'"format":"1.', b'"format":"7.')):
        folder = f"step-0000000{step}"
        disk.make_folder(folder)
        manifest = disk.read("step-00000001/manifest.json")
        disk.write(f"{folder}/manifest.json", manifest.replace(old, new))
        disk.write(f"{folder}/precious", b"")
        job.commit(step, state(step))
    assert values_of(disk, "step-00000001", "step-00000002", "step-00000003") == [1, 2, 3]
    assert disk.list("step-00000002.superseded-1") == ["manifest.json", "precious"]
    assert disk.list("step-00000003.superseded-0") == ["manifest.json", "precious"], "nobody can say which attempt"


def test_what_has_no_readable_manifest_is_replaced(
    disk: MemoryStorage, process: Storage, open_job: Callable[..., Job]
) -> None:
    disk.make_folder("step-00000001")
    disk.write("step-00000001/model.safetensors", b"half")
    open_job(process).commit(1, state(1))
    assert values(disk) == {"step-00000001": 1}


def anywhere(storage: Storage) -> set[float]:
    """What was saved in all whole checkpoints, wherever they wait."""
    found = set(values(storage).values())
    for work in [f"attempts/{name}" for name in storage.list("attempts") if name.endswith(".work")]:
        for name in storage.list(work):
            if "manifest.json" in storage.list(f"{work}/{name}"):
                found.add(float(Checkpoint(storage.child(f"{work}/{name}"))["model/w"][0]))
    return found


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("later_attempt", [False, True])
def test_whatever_fails_on_the_way_nothing_acknowledged_is_lost_and_a_new_try_succeeds(
    exchange: bool, late: bool, later_attempt: bool
) -> None:
    from harness.driving import Job

    refuse = [] if exchange else [fail(on("exchange"), errno.ENOSYS)]
    failed = 0
    for number in range(60):
        disk = MemoryStorage()
        strike = Countdown()
        process = FaultyStorage(disk, [fail(strike, errno.EIO, after=late), *refuse])
        job = Job(process)
        for step in (1, 2):
            job.commit(step, state(step))
        if later_attempt:
            job.end()
            job = Job(process, resume="step=1")
        strike.left = number
        try:
            job.commit(2, state(7))
        except OSError:
            strike.left = None
            failed += 1
            there = anywhere(disk)
            assert 1 in there
            assert there & {2, 7}
            assert 2 in there or not later_attempt, "what another attempt saved is kept, whatever happens"
            job.commit(2, state(8))
            found = values(disk)
            assert found.pop("step-00000002.superseded-1", None) == (2 if later_attempt else None)
            assert found == {"step-00000001": 1, "step-00000002": 8}
            assert disk.list(f"attempts/{job.number}.work") == []
        strike.left = None
        job.end()
    assert failed > 10


class Countdown:
    """True at one operation: when none are left."""

    def __init__(self) -> None:
        self.left: int | None = None

    def __call__(self, operation: Operation) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left == -1


def test_where_the_second_rename_fails_the_old_one_has_its_name_back(
    disk: MemoryStorage, open_job: Callable[..., Job]
) -> None:
    published = on("rename", "attempts/1.work/step-00000001")
    again: list[bool] = []
    second_rename = fail(lambda operation: bool(again) and published(operation), errno.EIO, times=1)
    job = open_job(FaultyStorage(disk, [fail(on("exchange"), errno.ENOSYS), second_rename]))
    job.commit(1, state(1))
    again.append(True)
    with pytest.raises(OSError, match="on purpose"):
        job.commit(1, state(2))
    assert values(disk) == {"step-00000001": 1}
    assert disk.list("attempts/1.work") == []


def test_a_job_fenced_between_the_two_renames_loses_nothing(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    def take_over(operation: Operation) -> bool:
        if (
            operation.name == "rename"
            and operation.paths == ("attempts/1.work/step-00000001", "step-00000001")
            and again
        ):
            newcomers.append(open_job(disk, takeover=True))
        return False

    again: list[bool] = []
    newcomers: list[Job] = []
    stale = open_job(FaultyStorage(disk, [fail(on("exchange"), errno.ENOSYS), fail(take_over, errno.EIO)]))
    stale.commit(1, state(1))
    again.append(True)
    with pytest.raises(RunFenced):
        stale.commit(1, state(2))
    assert values(disk) == {"step-00000001": 1}
    assert newcomers[0].restored is not None
    assert float(newcomers[0].state["model"]["w"][0]) == 1
