"""Removal and power loss: a checkpoint folder that can still be seen is whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from milepost.folder.checkpoint import Checkpoint
from milepost.folder.names import parse_step
from milepost.folder.retention import Keep, remove
from milepost.folder.verify import verify_fully
from milepost.ops.pruning import carry_out, plan
from milepost.storage.base import Storage
from milepost.storage.memory import MemoryStorage

CRASHES = 100


def whole_checkpoints(run: Storage) -> set[str]:
    """The checkpoint folders of `run`, after verifying each."""
    folders = {name for name in run.list() if parse_step(name) is not None}
    for folder in folders:
        findings = verify_fully(Checkpoint(run.child(folder)))
        assert [finding for finding in findings if finding.problem is not None] == []
    return folders


def found_after_power_loss(disk: MemoryStorage) -> set[frozenset[str]]:
    return {frozenset(whole_checkpoints(disk.crash(random.Random(seed).randrange))) for seed in range(CRASHES)}


def test_power_loss_after_a_removal_leaves_no_checkpoint_with_holes(start_job: Callable[..., Any]) -> None:
    disk = MemoryStorage()
    job = start_job(disk)
    for step in (1, 2, 3):
        job.save(step)
    remove(job.run, "step-00000001", job.attempt.work)
    found = found_after_power_loss(disk)
    assert all({"step-00000002", "step-00000003"} <= folders for folders in found)


def test_power_loss_after_a_prune_by_hand_neither(make_run: Callable[..., Any]) -> None:
    disk = MemoryStorage()
    run = make_run(disk)
    instants: set[frozenset[str]] = set()
    carry_out(run, plan(run, Keep(last=1)).doomed, lambda _: instants.update(found_after_power_loss(disk)))
    instants |= found_after_power_loss(disk)
    assert instants == {frozenset({"step-00000300"})}
