"""Writing items: links that are refused, bytes over several blocks, snapshots that tear, disks that fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from milepost.core.digest import digest, file_digest
from milepost.errors import RunFenced
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.snapshot import IO_BLOCK, TornSnapshot
from milepost.folder.verify import verify_fully
from milepost.storage.base import Storage
from milepost.storage.faults import FaultyStorage, fail, on
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from harness.driving import Job

REFUSED = ("ENOENT", "EMLINK", "EXDEV", "EPERM", "ENOTSUP", "EACCES", "EIO")


def state(head: float) -> dict[str, Any]:
    return {"model": {"body": np.arange(5000, dtype=np.float32), "head": np.full(2000, head, np.float32)}}


def whole(storage: Storage, folder: str) -> dict[str, Any]:
    """The tensors of a checkpoint, all of which was verified."""
    checkpoint = Checkpoint(storage.child(folder))
    assert [one.problem for one in verify_fully(checkpoint)] == [None] * len(checkpoint.manifest.files)
    return {path: checkpoint[path].copy() for path in checkpoint}


def holds(storage: Storage, folder: str, head: float) -> bool:
    found = whole(storage, folder)
    expected = state(head)["model"]
    return all(np.array_equal(found[f"model/{name}"], array) for name, array in expected.items())


@pytest.mark.parametrize("code", REFUSED)
@pytest.mark.parametrize("changed", [0.0, 1.0], ids=["unchanged", "part"])
@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer lost"])
def test_where_a_link_is_refused_the_bytes_are_written(
    disk: MemoryStorage, open_job: Callable[..., Job], code: str, changed: float, after: bool
) -> None:
    job = open_job(FaultyStorage(disk, [fail(on("link", "step-*"), getattr(errno, code), after=after)]))
    job.commit(1, state(0))
    saved = job.commit(2, state(changed))
    assert holds(disk, saved.folder, changed)
    assert disk.list(saved.folder) == ["manifest.json", "model.safetensors"]
    assert disk.stat(f"{saved.folder}/model.safetensors").links == 1
    assert saved.summary is not None
    assert saved.summary.new_bytes == saved.summary.bytes


def test_where_a_second_link_is_refused_the_first_is_taken_back(
    disk: MemoryStorage, open_job: Callable[..., Job]
) -> None:
    job = open_job(FaultyStorage(disk, [fail(on("link", "step-00000002/*part-1*"), errno.EMLINK)]))
    job.commit(1, state(0))
    job.commit(2, state(1))
    saved = job.commit(3, state(1))
    assert holds(disk, saved.folder, 1)
    assert disk.list(saved.folder) == ["manifest.json", "model.safetensors"]


@pytest.mark.parametrize("size", [0, 1, 4096, 20000])
def test_a_file_that_is_not_as_long_as_it_was_is_not_linked(
    tmp_path: Path, open_job: Callable[..., Job], size: int
) -> None:
    job = open_job(LocalStorage(tmp_path))
    first = tmp_path / job.commit(1, state(0)).folder / "model.safetensors"
    first.chmod(0o644)
    os.truncate(first, size)
    saved = job.commit(2, state(0))
    assert holds(LocalStorage(tmp_path), saved.folder, 0)
    assert (tmp_path / saved.folder / "model.safetensors").stat().st_nlink == 1


def test_a_base_that_is_gone_is_written_anew(tmp_path: Path, open_job: Callable[..., Job]) -> None:
    storage = LocalStorage(tmp_path)
    job = open_job(storage)
    storage.remove_tree(job.commit(1, state(0)).folder)
    saved = job.commit(2, state(0))
    assert holds(storage, saved.folder, 0)
    third = job.commit(3, state(0))
    assert third.summary is not None
    assert third.summary.new_bytes == 0, "from then on it is shared again"


@pytest.mark.parametrize("frozen", [False, True])
def test_an_item_of_several_blocks(tmp_path: Path, open_job: Callable[..., Job], frozen: bool) -> None:
    chance = np.random.default_rng(0)
    body = chance.random(IO_BLOCK // 4 + 1234, np.float32)
    before = {"body": body, "head": chance.random(IO_BLOCK // 8 + 99)}
    after = (
        {**before, "head": chance.random(IO_BLOCK // 8 + 99)}
        if frozen
        else {name: -array for name, array in before.items()}
    )
    job = open_job(LocalStorage(tmp_path))
    job.commit(1, {"model": before})
    job.commit(2, {"model": after})
    saved = job.commit(3, {"model": {**after, "odd": np.arange(13, dtype=np.int8)}})
    found = whole(LocalStorage(tmp_path), saved.folder)
    assert found.keys() == {"model/body", "model/head", "model/odd"}
    assert all(np.array_equal(found[f"model/{name}"], array) for name, array in after.items())


def test_digests_are_those_of_the_bytes_in_the_file(tmp_path: Path, open_job: Callable[..., Job]) -> None:
    saved = open_job(LocalStorage(tmp_path)).commit(1, state(3))
    checkpoint = Checkpoint(LocalStorage(tmp_path / saved.folder))
    data = (tmp_path / saved.folder / "model.safetensors").read_bytes()
    spans = checkpoint.spans("model.safetensors")
    shards = {path: tensor.shards[0] for path, tensor in checkpoint.manifest.tensors.items()}
    for path, shard in shards.items():
        span = spans[shard.key]
        assert shard.digest == digest(data[span.offset : span.offset + span.nbytes]), path
    header = data[: 8 + int.from_bytes(data[:8], "little")]
    in_order = sorted(shards.values(), key=lambda shard: spans[shard.key].offset)
    recorded = checkpoint.manifest.files["model.safetensors"]
    assert recorded.digest == file_digest(header, [shard.digest for shard in in_order])
    assert recorded.size == len(data)


def test_files_are_read_only_and_as_the_umask_says(tmp_path: Path, open_job: Callable[..., Job]) -> None:
    before = os.umask(0o027)
    try:
        saved = open_job(LocalStorage(tmp_path / "run")).commit(1, state(0))
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "run" / saved.folder).iterdir()}
    assert modes == {"manifest.json": "0o440", "model.safetensors": "0o440"}


@pytest.mark.parametrize(
    ("values", "good"),
    [
        ({"model": {"w": np.ones(3, np.float32)}, "buffers": {"mask": np.full(3, -np.inf)}}, True),
        ({"model": {"w": np.array([1, np.nan], np.float32)}}, False),
        ({"optimizer": {"m": np.array([np.inf], np.float64)}}, False),
        ({"model": {"n": np.array([2**31 - 1], np.int32)}}, True),
        ({"model": {"none": np.empty((0, 3), np.float32)}}, True),
    ],
)
def test_good_are_trained_floats_that_are_finite(
    disk: MemoryStorage, open_job: Callable[..., Job], values: dict[str, Any], good: bool
) -> None:
    saved = open_job(disk).commit(1, values)
    assert saved.summary is not None
    assert saved.summary.good == good
    assert (saved.summary.why_not_good is None) == good


def test_why_it_is_not_good_names_tensors(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    bad = {f"layer{number}": np.array([np.nan]) for number in range(5)}
    saved = open_job(disk).commit(1, {"model": bad | {"fine": np.ones(1)}})
    assert saved.summary is not None
    assert saved.summary.why_not_good == "NaN or infinity in model/layer0, model/layer1, model/layer2 and 2 more"


def nothing_is_left(disk: MemoryStorage, job: Job) -> bool:
    return disk.list(f"attempts/{job.number}.work") == []


def test_a_torn_snapshot_leaves_nothing(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    from harness.driving import captured

    from milepost.folder.snapshot import Position

    job = open_job(disk)
    job.commit(1, state(0))
    torn, _ = job.stager.stage(captured(Position(2), state(1), {}, {}), lambda: False)
    assert job.committer is not None
    with pytest.raises(TornSnapshot):
        job.committer.commit(torn)
    assert [one.step for one in job.run.checkpoints()] == [1]
    assert nothing_is_left(disk, job)
    assert holds(disk, job.commit(2, state(1)).folder, 1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("name", ["create", "writer.write", "writer.finish", "sync_dir", "rename", "make_folder"])
@pytest.mark.parametrize("after", [False, True])
def test_a_disk_that_fails_once_costs_one_save(
    disk: MemoryStorage, open_job: Callable[..., Job], code: int, name: str, after: bool
) -> None:
    fuse = {"armed": False}
    faulty = FaultyStorage(disk, [fail(lambda one: fuse["armed"] and one.name == name, code, after=after, times=1)])
    job = open_job(faulty)
    job.commit(1, state(0))
    fuse["armed"] = True
    with pytest.raises(OSError, match="on purpose") as caught:
        job.commit(2, state(1))
    assert caught.value.errno == code
    fuse["armed"] = False
    assert holds(disk, "step-00000001", 0)
    seen = [one.folder for one in job.run.checkpoints()]
    assert seen in (["step-00000001"], ["step-00000001", "step-00000002"]), "the rename may have been done"
    saved = job.commit(2, state(2))
    assert holds(disk, saved.folder, 2)
    assert nothing_is_left(disk, job)


def test_a_full_disk_leaves_the_last_checkpoint_and_goes_on_when_there_is_room(open_job: Callable[..., Job]) -> None:
    disk = MemoryStorage(capacity=60_000)
    job = open_job(disk)
    job.commit(1, state(0))
    with pytest.raises(OSError, match="No space") as caught:
        job.commit(2, {"model": {"large": np.ones(10_000)}})
    assert caught.value.errno == errno.ENOSPC
    assert holds(disk, "step-00000001", 0)
    assert nothing_is_left(disk, job)
    disk.capacity = None
    job.commit(2, {"model": {"large": np.ones(10_000)}})


def test_a_fenced_job_is_told_so_and_leaves_nothing(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    stale = open_job(disk)
    stale.commit(1, state(0))
    newcomer = open_job(disk, takeover=True)
    with pytest.raises(RunFenced) as caught:
        stale.commit(2, state(1))
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert [one.step for one in newcomer.run.checkpoints()] == [1]
    assert [name for name in disk.list("attempts") if name.endswith((".work", ".fenced"))] == ["2.work"]
