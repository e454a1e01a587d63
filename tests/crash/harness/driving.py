"""A training job reduced to its checkpoints: opens a run on any storage, restores, saves arrays, ends, dies or is fenced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from milepost.core import tree
from milepost.core.adapter import adapter_of, is_tensor
from milepost.folder import which
from milepost.folder.attempts import Attempt, Parent, claim
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.commit import Committer
from milepost.folder.lineage import of_run
from milepost.folder.names import file_stems
from milepost.folder.retention import Keep
from milepost.folder.run import Listed, RunFolder
from milepost.folder.sharing import Base
from milepost.folder.snapshot import Position, Snapshot
from milepost.pipeline.images import Leaf
from milepost.pipeline.stage import Captured, Stager
from milepost.storage.base import Storage
from milepost.training.restore import choose

State = Mapping[str, Any]
"""Item -> nested value of arrays and plain data."""

TRAINED = ("model", "optimizer")
ALL = Keep(last=None)


class Key(NamedTuple):
    """What a checkpoint is called whatever its folder is: who saved it, and at which step."""

    attempt: int
    step: int


def key_of(listed: Listed) -> Key | None:
    """The key of a folder; None if its summary cannot be read."""
    return None if listed.summary is None else Key(listed.summary.attempt, listed.step)


def captured(position: Position, state: State, metrics: Mapping[str, float], written_by: Mapping[str, Any]) -> Captured:
    """The state as capture would find it."""
    items, leaves = {}, {}
    for name, value in state.items():
        items[name], found = tree.flatten(value, is_tensor, name)
        leaves[name] = []
        for path, array in found.items():
            adapter = adapter_of(array)
            assert adapter is not None
            leaves[name].append(Leaf(path, array, adapter, adapter.describe(array), name in TRAINED))
    leaves = {name: found for name, found in leaves.items() if found}
    return Captured(position, metrics, items, leaves, file_stems(state), written_by)


class Job:
    """One attempt. `resume` as for `Checkpointer`: "latest", "never" or a WHICH that opens a branch.

    After opening, `restored` is the checkpoint that was taken (None: from the beginning) and `state` what was in it.
    """

    def __init__(self, storage: Storage, keep: Keep = ALL, *, resume: str = "latest", takeover: bool = False) -> None:
        self.keep = keep
        self.stager = Stager()
        self.attempt: Attempt | None = None
        self.committer: Committer | None = None
        self.restored: Listed | None = None
        self.state: dict[str, Any] = {}
        self.passed_over: list[tuple[str, str]] = []
        self.run = RunFolder.create(storage)
        if keep.best_by is not None and self.run.info.best != keep.best_by:
            self.run.info.best = keep.best_by
            self.run.save_info()
        try:
            self.attempt = claim(storage, takeover=takeover)
            base = self._restore(resume)
            self.attempt.save_record()
            self.committer = Committer(self.run, self.attempt, keep, base)
        except Exception:
            if self.attempt is not None:
                self.attempt.end("failed")
            raise
        except BaseException:
            self.die()
            raise

    def _restore(self, resume: str) -> Base | None:
        assert self.attempt is not None
        if resume == "never":
            return None
        found = of_run(self.run) if resume == "latest" else which.candidates(self.run, resume)
        if not found:
            return None
        listed, checkpoint, items, self.passed_over = choose(
            self.run, found, self.stager.room, fall_back=resume == "latest"
        )
        key = key_of(listed)
        assert key is not None
        self.restored = listed
        self.state = {name: item.value() for name, item in items.items()}
        self.attempt.record.parent = Parent(key.attempt, key.step)
        return Base(listed.folder, checkpoint.manifest)

    @property
    def number(self) -> int:
        """Of the attempt."""
        assert self.attempt is not None
        return self.attempt.number

    def snapshot(
        self, step: int, state: State, metrics: Mapping[str, float], written_by: Mapping[str, Any]
    ) -> Snapshot:
        """`state` staged by copy, ready to be committed."""
        return self.stager.stage(captured(Position(step), state, metrics, written_by), lambda: True)[0]

    def commit(
        self, step: int, state: State, *, written_by: Mapping[str, Any] | None = None, **metrics: float
    ) -> Listed:
        """Save, without retention."""
        assert self.committer is not None
        return self.committer.commit(self.snapshot(step, state, metrics, written_by or {}))

    def save(self, step: int, state: State, **metrics: float) -> Listed:
        """Save as the persister does: commit, then retention."""
        assert self.committer is not None
        saved = self.commit(step, state, **metrics)
        self.committer.tidy(saved)
        return saved

    def end(self, how: str = "complete") -> None:
        """The clean end."""
        assert self.committer is not None
        assert self.attempt is not None
        self.committer.close()
        self.attempt.end(how)

    def die(self) -> None:
        """Stop the threads of a job that was killed (by its storage), leaving everything else as it is."""
        if self.attempt is not None:
            self.attempt._stop.set()
            self.attempt._heart.join()
        if self.committer is not None:
            self.committer.close()


def read(checkpoint: Checkpoint) -> dict[str, npt.NDArray[Any]]:
    """All tensors of a checkpoint, each checked against its digest."""
    return {path: checkpoint[path] for path in checkpoint}


def same_bits(one: Any, other: Any) -> bool:
    """Whether two arrays are equal bit for bit, NaN payloads included."""
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
