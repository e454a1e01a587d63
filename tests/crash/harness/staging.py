"""A job that saves to the disk of its node first and brings that to the run directory, both on one `MemoryStorage`."""

from __future__ import annotations

from typing import Any

from harness.driving import ALL, Job, State, key_of

from milepost.folder.attempts import Parent
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.lineage import lineage, newest_attempt, read_records
from milepost.folder.nearby import Nearby
from milepost.folder.retention import Keep
from milepost.folder.run import Listed
from milepost.folder.sharing import Base
from milepost.storage.base import Storage
from milepost.training.restore import choose

RUN, NODE = "run", "node"


class StagedJob(Job):
    """As `Job`. `disk` has the run directory and the node's disk as folders; `nearby_used` tells whether what was restored came
    from the latter."""

    def __init__(self, disk: Storage, keep: Keep = ALL, **options: Any) -> None:
        self.disk = disk
        self.nearby_used = False
        super().__init__(disk.child(RUN), keep, **options)
        assert self.attempt is not None
        parent = self.attempt.record.parent
        self.home = self.nearby.move_in(self.attempt.record)
        self.nearby.leave(self.number, *([parent.attempt] if parent is not None else []))
        self.local = self.home.committer()

    def _restore(self, resume: str) -> Base | None:
        assert self.attempt is not None
        records, checkpoints = read_records(self.run), self.run.checkpoints()
        self.nearby = Nearby(self.disk.child(NODE), self.run, records)
        checkpoints += self.nearby.only_here(checkpoints)
        found = lineage(records, checkpoints, newest_attempt(records, checkpoints))
        if not found:
            return None
        self.restored, checkpoint, items, self.passed_over = choose(
            self.run, found, self.stager.room, fall_back=True, nearby=self.nearby
        )
        key = key_of(self.restored)
        assert key is not None
        self.nearby_used = checkpoint.where.startswith(self.nearby.storage.root)
        self.state = {name: item.value() for name, item in items.items()}
        self.attempt.record.parent = Parent(key.attempt, key.step)
        return None if self.nearby_used else Base(self.restored.folder, checkpoint.manifest)

    def stage(self, step: int, state: State) -> Listed:
        """Save to the node's disk."""
        return self.local.commit(self.snapshot(step, state, {}, {}))

    def bring(self, staged: Listed) -> Listed:
        """And from there to the run directory."""
        assert self.committer is not None
        brought = self.committer.bring(Checkpoint(self.home.run.storage.child(staged.folder)))
        self.committer.tidy(brought)
        self.home.tidy([])
        return brought

    def die(self) -> None:
        super().die()
        if hasattr(self, "local"):
            self.local.close()
