"""A checkpoint folder outside of a run: whatever goes wrong, under its name is what was there or what was to be."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytest

from milepost.core.manifest import FORMAT, Manifest, Summary
from milepost.errors import NotFoundError, StorageError
from milepost.folder.alone import Alone
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.commit import with_shards
from milepost.folder.snapshot import Position, Snapshot
from milepost.folder.verify import verify_fully
from milepost.folder.writer import ItemWriter
from milepost.storage.base import Storage
from milepost.storage.faults import FaultyStorage, Killed, fail, kill, on
from milepost.storage.memory import MemoryStorage

CANNOT_EXCHANGE = fail(on("exchange"), errno.EINVAL)


class Save(Protocol):
    def __call__(self, storage: Storage, value: float, *, overwrite: bool = True) -> None: ...


@pytest.fixture(name="save")
def _save(take: Callable[..., Snapshot]) -> Save:
    def save(storage: Storage, value: float, *, overwrite: bool = True) -> None:
        taken = take(Position(1), {"model": {"w": np.full(2000, value, np.float32)}}, {}, {})
        alone, writer = Alone(storage, "mine"), ItemWriter(storage)
        try:
            alone.begin(overwrite=overwrite)
            written = writer.write(alone.draft, "model", taken.files[0], None)
        finally:
            writer.close()
        tensors = with_shards(taken.tensors, written.shards)
        alone.commit(Manifest(Summary(FORMAT, "", 0, 1), dict(taken.items), tensors, written.files))

    return save


def found(storage: Storage) -> float | None:
    try:
        checkpoint = Checkpoint(storage.child("mine"))
    except NotFoundError:
        return None
    assert [one.problem for one in verify_fully(checkpoint)] == [None]
    return float(checkpoint["model/w"][0])


@pytest.mark.parametrize("exchanges", [True, False])
def test_killed_anywhere_and_the_power_gone(save: Save, exchanges: bool) -> None:
    faults: list[Any] = [] if exchanges else [CANNOT_EXCHANGE]
    whole = FaultyStorage(MemoryStorage(), faults)
    save(whole, 1)
    before = len(whole.operations)
    save(whole, 2)
    seen = set()
    for number, operation in enumerate(whole.operations[before:]):
        if operation.name == "exchange" and not exchanges:
            continue  # it did nothing
        for after in (False, True):
            disk = MemoryStorage()
            save(disk, 1)
            with pytest.raises(Killed):
                save(FaultyStorage(disk, [*faults, kill(number, after=after)]), 2)
            for seed in range(3):
                left = disk.crash(random.Random(seed).randrange)
                seen.add(found(left))
                assert found(left) in ({1, 2} if exchanges else {1, 2, None})
                Alone(left, "mine").begin(overwrite=True)
                assert found(left) in {1, 2}, "what was set aside has its name again"
                save(left, 3)
                assert found(left) == 3
                assert left.list() == ["mine"]
    assert {1, 2} <= seen


def test_a_save_that_fails_leaves_what_was_there(save: Save) -> None:
    disk = MemoryStorage()
    save(disk, 1)
    whole = FaultyStorage(disk)
    save(whole, 1)
    for number, operation in enumerate(whole.operations):
        if operation.changes and operation.name != "remove_tree":
            with pytest.raises(OSError, match="on purpose"):
                save(FaultyStorage(disk, [fail(number, errno.EIO)]), 2)
            if found(disk) == 2:  # it was made, and only a sync of names behind it failed
                save(disk, 1)


def test_what_is_in_the_way_stays(save: Save) -> None:
    disk = MemoryStorage()
    save(disk, 1)
    with pytest.raises(StorageError, match="already"):
        save(disk, 2, overwrite=False)
    assert found(disk) == 1
    disk.remove_tree("mine")
    disk.make_folder("mine")
    save(disk, 2)
    assert found(disk) == 2
    disk.remove_tree("mine")
    disk.write("mine", b"a letter")
    with pytest.raises(StorageError, match="no folder"):
        save(disk, 2)
    assert disk.read("mine") == b"a letter"
