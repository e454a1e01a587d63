"""Saving by way of the node's disk: killed at any operation, with or without power, with or without the node afterwards."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from harness.driving import Job, same_bits
from harness.staging import NODE, RUN, StagedJob

from milepost.errors import RunFenced
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.retention import Keep
from milepost.folder.run import RunFolder
from milepost.folder.verify import verify_fully
from milepost.storage.faults import FaultyStorage, Killed, Operation, kill
from milepost.storage.memory import MemoryStorage


def state(step: int) -> dict[str, Any]:
    """Some of it is the same at every step."""
    return {"model": {"body": np.arange(3000.0), "head": np.full(300, float(step))}, "moment": np.full(500, step / 3)}


def prepared(strikes_at: int | None) -> tuple[MemoryStorage, FaultyStorage, StagedJob]:
    """A job that brought step 1, and dies at that operation from now on."""
    disk = MemoryStorage()
    begun = [0]

    def strikes(operation: Operation) -> bool:
        return begun[0] > 0 and strikes_at is not None and len(process.operations) - begun[0] == strikes_at

    process = FaultyStorage(disk, [kill(strikes)])
    job = StagedJob(process, Keep(last=2))
    job.bring(job.stage(1, state(1)))
    begun[0] = len(process.operations)
    return disk, process, job


def save(job: StagedJob, told: list[str]) -> None:
    """Save steps 2 and 3; `told` gets what was acknowledged."""
    for step in (2, 3):
        staged = job.stage(step, state(step))
        told.append(f"on node {step}")
        job.bring(staged)
        told.append(f"durable {step}")


def newest(told: list[str], what: str) -> int:
    return max([1, *(int(line.split()[-1]) for line in told if line.startswith(what))])


def check_visible(disk: MemoryStorage) -> None:
    """All that can be seen in the run directory is whole, and what it should be."""
    for one in RunFolder.open(disk.child(RUN)).checkpoints():
        checkpoint = Checkpoint(disk.child(f"{RUN}/{one.folder}"))
        assert [finding.problem for finding in verify_fully(checkpoint)] == [None] * len(checkpoint.manifest.files)
        assert same_bits(checkpoint["model/head"], state(one.step)["model"]["head"])


def restart(disk: MemoryStorage) -> StagedJob:
    job = StagedJob(disk, Keep(last=2))
    assert job.restored is not None
    assert same_bits(job.state["moment"], state(job.restored.step)["moment"])
    check_visible(disk)
    left = [name for name in disk.list(f"{RUN}/attempts") if name.endswith((".work", ".fenced"))]
    assert left == ["2.work"]
    return job


def test_killed_before_any_operation_of_saving_and_draining() -> None:
    _, process, job = prepared(None)
    begin, told = len(process.operations), []
    save(job, told)
    count = len(process.operations) - begin
    job.end()
    assert count > 100
    from_node = behind = 0
    for number in range(1, count + 1):
        disk, process, job = prepared(number)
        told = []
        with pytest.raises(Killed):
            save(job, told)
        job.die()
        check_visible(disk)
        elsewhere = disk.crash(lambda n: 0)
        elsewhere.remove_tree(NODE)
        chance = random.Random(number)
        for place, what in (
            (elsewhere, "durable"),  # the job comes to another node
            (disk.crash(lambda n: 0), "on node"),  # the power failed
            (disk.crash(chance.randrange), "on node"),
            (disk, "on node"),  # only the process died
        ):
            again = restart(place)
            assert again.restored is not None
            assert again.restored.step >= newest(told, what), (number, what, told)
            from_node += again.nearby_used
            behind += again.restored.step < newest(told, "on node")
            again.die()
    assert from_node > count
    assert behind > 20, "the node's disk was never ahead of the run directory"


def test_a_stale_attempt_brings_nothing() -> None:
    disk, _, old = prepared(None)
    staged = old.stage(2, state(2))
    new = StagedJob(disk, Keep(last=2), takeover=True)
    # It continues what the old one had on this node, and that old one can neither bring nor save any more.
    assert new.restored is not None
    assert new.restored.step == 2
    with pytest.raises(RunFenced):
        old.bring(staged)
    new.bring(new.stage(3, state(3)))
    new.nearby.leave(new.number)
    with pytest.raises(RunFenced):
        old.stage(4, state(4))
    assert [one.step for one in new.run.checkpoints()] == [1, 3]
    old.die()
    new.end()


def test_a_step_that_was_saved_again_past_the_disk_of_the_node() -> None:
    disk, _, job = prepared(None)
    assert job.committer is not None
    job.committer.commit(job.snapshot(1, state(7), {}, {}))
    job.die()
    assert job.attempt is not None
    job.attempt._lock.release()
    again = StagedJob(disk, Keep(last=2))
    assert same_bits(again.state["moment"], state(7)["moment"])
    assert not again.nearby_used
    again.end()


@pytest.mark.parametrize("other_node", [False, True])
def test_taken_over_at_any_operation_of_the_drain(other_node: bool) -> None:
    """The newcomer, on the same node or another, sees all there ever is of the attempt before it."""
    _, process, job = prepared(None)
    staged, begin = job.stage(2, state(2)), len(process.operations)
    job.bring(staged)
    count = len(process.operations) - begin
    job.end()
    outcomes = set()
    for number in range(count):
        outcomes.add(taken_over(number, other_node))
    assert outcomes == {"in time", "fenced"}


def taken_over(number: int, other_node: bool) -> str:
    """What becomes of a drain in whose course, before operation `number`, a newcomer opens the run."""
    disk, seen, begun = MemoryStorage(), set(), []

    def strikes(operation: Operation) -> bool:
        if begun and len(process.operations) - begun[0] > number:
            begun.clear()
            job = (Job if other_node else StagedJob)(disk.child(RUN) if other_node else disk, takeover=True)
            seen.update(one.step for one in job.run.checkpoints())
            job.die()
        return False

    process = FaultyStorage(disk, [kill(strikes)])
    old = StagedJob(process, Keep(last=None))
    old.bring(old.stage(1, state(1)))
    staged = old.stage(2, state(2))
    begun.append(len(process.operations))
    try:
        old.bring(staged)
        outcome = "in time"
    except RunFenced:
        outcome = "fenced"
    old.die()
    check_visible(disk)
    assert {one.step for one in RunFolder.open(disk.child(RUN)).checkpoints()} == seen
    return outcome
