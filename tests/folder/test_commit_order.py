"""The order of writes: the contract that everything else stands on."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from milepost.errors import DamagedError, MilepostError
from milepost.folder import names
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.retention import Keep
from milepost.folder.run import RunFolder
from milepost.folder.verify import verify_fully
from milepost.storage.faults import FaultyStorage, Killed, Operation, fail, kill, on
from milepost.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from harness.driving import Job, State


def state(step: int) -> State:
    return {
        "model": {"body": np.arange(3000, dtype=np.float32), "head": np.full(300, step, np.float32)},
        "optimizer": {"moment": np.full(1000, step / 3)},
    }


def first(operations: Sequence[Operation], name: str, path: str) -> int:
    """Where an operation of this name on a path like this comes first."""
    matches = on(name, path)
    return next(index for index, operation in enumerate(operations) if matches(operation))


def last(operations: Sequence[Operation], name: str, path: str) -> int:
    return len(operations) - 1 - first(operations[::-1], name, path)


def recorded(job: Job, storage: FaultyStorage, step: int, *, tidy: bool = True) -> list[Operation]:
    """The operations that change something during one save."""
    begin = len(storage.operations)
    saved = job.commit(step, state(step))
    if tidy:
        assert job.committer is not None
        job.committer.tidy(saved)
    return [operation for operation in storage.operations[begin:] if operation.changes]


def check_order(operations: Sequence[Operation], folder: str, draft: str) -> None:
    """Every file is finished before the manifest is begun, that before the folder's names, those before the rename, and the rename
    before the run's names; nothing is written under the final name."""
    files = [operation.paths[0] for operation in operations if operation.name == "writer.finish"]
    assert files[-1] == f"{draft}/{names.MANIFEST}"
    assert all(file.startswith(f"{draft}/") for file in files)
    manifest = first(operations, "create", f"{draft}/{names.MANIFEST}")
    written = [index for index, operation in enumerate(operations) if f"{draft}/" in " ".join(operation.paths)]
    before = [index for index in written if names.MANIFEST not in " ".join(operations[index].paths)]
    assert max(before) < manifest, "a file after the manifest"
    for file in files:
        assert first(operations, "writer.finish", file) > last(operations, "writer.write", file)
    links = [operation.paths[1] for operation in operations if operation.name == "link"]
    assert set(links).isdisjoint(files), "written into what is shared"
    finished = first(operations, "writer.finish", f"{draft}/{names.MANIFEST}")
    folder_synced = first(operations, "sync_dir", draft)
    published = min(
        index
        for index, one in enumerate(operations)
        if one.name in ("rename", "exchange") and one.paths == (draft, folder)
    )
    run_synced = published + 1 + first(operations[published + 1 :], "sync_dir", "")
    assert finished < folder_synced < published < run_synced
    assert not [one for one in operations[:published] if folder in one.paths], "the final name was touched"
    for operation in operations[:run_synced]:
        assert not any("trash" in path or path in ("latest", "best") for path in operation.paths), operation


@pytest.fixture
def storage(disk: MemoryStorage) -> FaultyStorage:
    return FaultyStorage(disk)


def test_a_first_save(storage: FaultyStorage, open_job: Callable[..., Job]) -> None:
    operations = recorded(open_job(storage), storage, 1)
    check_order(operations, "step-00000001", "attempts/1.work/step-00000001")
    assert [operation.name for operation in operations] == [
        "make_folder",
        "create", "writer.write", "writer.finish",
        "create", "writer.write", "writer.finish",
        "create", "writer.write", "writer.finish",
        "sync_dir", "rename", "sync_dir", "symlink",
    ]  # fmt: skip


def test_a_save_that_shares_and_removes(storage: FaultyStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(storage, Keep(last=1))
    job.save(1, state(1))
    operations = recorded(job, storage, 2)
    check_order(operations, "step-00000002", "attempts/1.work/step-00000002")
    links = [operation.paths for operation in operations if operation.name == "link"]
    assert links == [("step-00000001/model.safetensors", "attempts/1.work/step-00000002/model.part-0.safetensors")]
    moved = first(operations, "rename", "step-00000001")
    assert operations[moved].paths[1] == "attempts/1.work/trash-step-00000001"
    assert first(operations, "sync_dir", "") < first(operations, "symlink", "latest") < moved
    assert operations[moved + 1 :] == [
        Operation("sync_dir", ("attempts/1.work",)),
        Operation("remove_tree", ("attempts/1.work/trash-step-00000001",)),
    ]


def test_what_is_brought_from_elsewhere(storage: FaultyStorage, open_job: Callable[..., Job]) -> None:
    """As a save: files, manifest, names, rename. What did not change since the last one that was brought is linked."""
    elsewhere = MemoryStorage()
    made, job = open_job(elsewhere), open_job(storage)
    for step in (1, 2):
        made.commit(step, state(step))
        source = Checkpoint(elsewhere.child(names.step_folder(step)))
        begin = len(storage.operations)
        assert job.committer is not None
        brought = job.committer.bring(source)
        job.committer.tidy(brought)
        operations = [operation for operation in storage.operations[begin:] if operation.changes]
        check_order(operations, names.step_folder(step), f"attempts/1.work/{names.step_folder(step)}")
        files = [one.paths[0].rpartition("/")[2] for one in operations if one.name == "writer.finish"]
        links = [one.paths for one in operations if one.name == "link"]
        copy = storage.child(brought.folder)
        assert copy.read(names.MANIFEST) == source.storage.read(names.MANIFEST)
        assert [finding.problem for finding in verify_fully(Checkpoint(copy))] == [None] * len(source.manifest.files)
        assert (len(files) + len(links), brought.summary) == (len(source.manifest.files) + 1, source.manifest.summary)
    assert links == [("step-00000001/model.safetensors", "attempts/1.work/step-00000002/model.part-0.safetensors")]


def test_what_is_damaged_is_not_brought(storage: FaultyStorage, open_job: Callable[..., Job]) -> None:
    elsewhere = MemoryStorage()
    made, job = open_job(elsewhere), open_job(storage)
    made.commit(1, state(1))
    whole = elsewhere.read("step-00000001/model.safetensors")
    elsewhere.remove("step-00000001/model.safetensors")
    elsewhere.write("step-00000001/model.safetensors", whole[:-1] + bytes([whole[-1] ^ 1]))
    assert job.committer is not None
    with pytest.raises(DamagedError):
        job.committer.bring(Checkpoint(elsewhere.child("step-00000001")))
    assert job.run.checkpoints() == []
    assert storage.list("attempts/1.work") == []


def test_a_step_saved_twice_is_swapped_in(storage: FaultyStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(storage)
    job.save(1, state(1))
    operations = recorded(job, storage, 1)
    check_order(operations, "step-00000001", "attempts/1.work/step-00000001")
    swapped = first(operations, "exchange", "*")
    removed = first(operations, "remove_tree", "attempts/1.work/*")
    assert swapped < first(operations, "sync_dir", "") < removed, "the old one goes when the new one is durable"


def test_a_step_saved_twice_where_names_cannot_be_exchanged(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    storage = FaultyStorage(disk, [fail(on("exchange"), errno.ENOSYS)])
    job = open_job(storage)
    job.save(1, state(1))
    operations = [one for one in recorded(job, storage, 1) if one.name != "exchange"]
    moves = [one.paths for one in operations if one.name == "rename"]
    draft, aside = "attempts/1.work/step-00000001", "attempts/1.work/old-step-00000001"
    assert moves[:2] == [("step-00000001", aside), (draft, "step-00000001")]
    published = first(operations, "rename", draft)
    removed = first(operations, "remove_tree", "attempts/1.work/*")
    assert published < published + 1 + first(operations[published + 1 :], "sync_dir", "") < removed


def test_acknowledged_means_durable(open_job: Callable[..., Job]) -> None:
    disk = MemoryStorage()
    job = open_job(disk)
    for step in (1, 2, 3):
        job.commit(step, state(step))
        after = disk.crash(lambda n: 0)  # all that may be lost is lost
        assert [one.step for one in RunFolder.open(after).checkpoints()] == list(range(1, step + 1))


def test_a_record_is_durable_before_the_first_save(open_job: Callable[..., Job]) -> None:
    disk = MemoryStorage()
    first_job = open_job(disk)
    first_job.commit(1, state(1))
    first_job.end()
    open_job(disk)
    assert disk.crash(lambda n: 0).read("attempts/2.json") == disk.read("attempts/2.json")


def visible(disk: MemoryStorage) -> dict[int, bytes]:
    """Step -> the bytes that tell which save it was, of every checkpoint that can be seen; all of them must be whole."""
    found = {}
    for one in RunFolder.open(disk).checkpoints():
        assert one.current
        try:
            checkpoint = Checkpoint(disk.child(one.folder))
            assert [finding.problem for finding in verify_fully(checkpoint)] == [None] * len(checkpoint.manifest.files)
        except MilepostError as error:
            raise AssertionError(f"{one.folder} is not whole") from error
        found[one.step] = checkpoint["optimizer/moment"].tobytes()
    return found


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("again", [False, True])
def test_killed_before_any_operation_and_without_power_all_is_old_or_new(exchange: bool, again: bool) -> None:
    """Every operation of a save (of a new step, or of one that is there), each followed by several ways to lose power."""
    from harness.driving import Job

    refuse = [] if exchange else [fail(on("exchange"), errno.ENOSYS)]
    new = 2 if again else 3

    def prepared(number: int | None) -> tuple[MemoryStorage, FaultyStorage, Job]:
        disk = MemoryStorage()
        begun = [0]

        def strikes(operation: Operation) -> bool:
            return begun[0] > 0 and number is not None and len(storage.operations) - begun[0] == number

        storage = FaultyStorage(disk, [kill(strikes), *refuse])
        job = Job(storage, Keep(last=2))
        for step in (1, 2):
            job.save(step, state(step))
        begun[0] = len(storage.operations)
        return disk, storage, job

    old = {step: state(step)["optimizer"]["moment"].tobytes() for step in (1, 2)}
    content = state(7)["optimizer"]["moment"].tobytes()
    disk, storage, job = prepared(None)
    begin = len(storage.operations)
    saved = job.commit(new, state(7))
    assert job.committer is not None
    job.committer.tidy(saved)
    count = len(storage.operations) - begin
    job.end()
    done = {2: content, 1: old[1]} if again else {3: content, 2: old[2]}
    outcomes: set[str] = set()
    for number in range(1, count + 1):
        disk, storage, job = prepared(number)
        with pytest.raises(Killed):
            job.save(new, state(7))
        job.die()
        powerless = [disk.crash(lambda n: 0), *(disk.crash(random.Random(seed).randrange) for seed in range(5))]
        for seed, crashed in enumerate([*powerless, disk]):
            next_job = Job(crashed, Keep(last=2))
            found = visible(crashed)
            assert next_job.restored is not None
            assert found in (old, done, old | {new: content}), (number, seed, sorted(found))
            outcomes.add("old" if found == old else "new")
            leftover = [name for name in crashed.list("attempts") if name.endswith((".work", ".fenced"))]
            assert leftover == ["2.work"]
            next_job.end()
    assert outcomes == {"old", "new"}
    assert count > 25
