"""Saving from the training thread's point of view: what a save costs it, what it is told, and when a snapshot must
be taken again."""

from __future__ import annotations

import socket
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from milepost.errors import MilepostWarning, RunFenced, SaveFailedError
from milepost.folder import names
from milepost.folder.attempts import Attempt
from milepost.folder.commit import Committer
from milepost.folder.nearby import Home
from milepost.folder.retention import Keep
from milepost.folder.run import Listed, RunFolder
from milepost.folder.sharing import Base
from milepost.folder.snapshot import Position, TornSnapshot
from milepost.pipeline.drain import Drain
from milepost.pipeline.persist import Pending, Persister
from milepost.pipeline.stage import Captured, Staged, Stager
from milepost.storage.base import Storage
from milepost.training.capture import Capturer
from milepost.training.display import Display, SaveState
from milepost.training.glimpse import Glimpses
from milepost.training.guard import make_guard
from milepost.training.items import RESERVED, Item
from milepost.training.room import Room

STATE_STEM = "state"


class SavingOptions(TypedDict):
    """What a person chooses about saving; see `Checkpointer`."""

    stage: Literal["overlap", "copy"]
    on_error: Literal["warn", "raise"]
    on_busy: Literal["wait", "skip"]
    drain_bandwidth: float | None


class Marked(NamedTuple):
    """A state that may still be saved, and what tells, once, whether it is as it was."""

    captured: Captured
    intact: Callable[[], bool]


class Saver:
    """Takes and submits snapshots of one attempt.

    Args:
        run, attempt, keep: where and what stays.
        items: the state, by name.
        base: a verified checkpoint that the first save may link to.
        stager: its memory may hold the checkpoint that was just restored; the first snapshot takes it over.
        home: where checkpoints are saved first, on the disk of this node; None for the run directory at once.
        display: where people are told.
        written_by: goes into every manifest.
        options: see `Checkpointer`.
    """

    def __init__(
        self,
        run: RunFolder,
        attempt: Attempt,
        keep: Keep,
        items: Mapping[str, Item],
        base: Base | None,
        stager: Stager,
        home: Home | None = None,
        *,
        display: Display,
        written_by: Mapping[str, Any],
        **options: Unpack[SavingOptions],
    ) -> None:
        self._items, self._note, self._warn, self._show = items, display.note, display.warn, display.checkpoint
        self._on_error, self._on_busy = options["on_error"], options["on_busy"]
        self._written_by = written_by
        self._stems = {**names.file_stems(items, reserved=[STATE_STEM]), RESERVED: STATE_STEM}
        self._stager = stager
        self._capturer = Capturer()
        committer = Committer(run, attempt, keep, base)
        self._drain = None
        self._rooms = [Room(run.storage, display.warn)]
        if home is not None:
            bandwidth = options["drain_bandwidth"]
            self._drain = Drain(
                committer, attempt, home, keep,
                where=run.where, host=socket.gethostname(), bandwidth=bandwidth, on_warning=display.warn,
            )  # fmt: skip
            committer = home.committer()
            self._rooms.append(Room(home.run.storage, display.warn))
        self._persister = Persister(committer, run.where, display.warn, self._drain)
        self._staged: Staged | None = None
        self._guard = make_guard(list(items.values()), self._wait_staged)
        self._overlap = options["stage"] == "overlap" and self._guard is not None
        self._hold = options["stage"] == "overlap"
        """Whether tensors that cannot change are copied while training goes on."""
        self._steps_seen = 0
        self._prepared = False
        self._undecided: list[Pending] = []
        self._good = True
        """Whether the last checkpoint was."""
        self._torn: Pending | None = None
        self.durable: Listed | None = None
        """The newest checkpoint of this attempt that is durable."""
        self.stall_seconds = 0.0
        """How long training has waited for saves in all: in save calls and before optimizer steps."""
        self.newest: Pending | None = None
        self.state_bytes = 0
        """The size of the state, once a first step has shown it."""

    # -- seen from the loop -----------------------------------------------------------------------------------------------

    def stepped(self) -> bool:
        """Whether an optimizer of this run stepped since the last call; True where that cannot be known.

        A step that moved weights without passing the hook (a compiled one) turns overlap off.
        """
        if not self._prepared:
            # Now optimizers have their state, and the first save is still to come.
            self._prepared = True
            captured = self._capture(Position(0), {}, {}, ())
            self.state_bytes = self._stager.plan(captured)
            self._stager.prepare(captured)
        guard = self._guard
        if guard is None:
            return True
        hooked, self._steps_seen = guard.steps != self._steps_seen, guard.steps
        moved = guard.moved()
        if not hooked and moved and self._overlap:
            self._overlap = False
            self._note("the optimizer step does not pass torch's hooks (compiled?): snapshots are taken by copy")
        return hooked or moved

    @property
    def optimizer_steps(self) -> int:
        """How often an optimizer of this run has stepped, where that can be known."""
        return self._guard.steps if self._guard is not None else 0

    def gradients(self) -> dict[str, Any]:
        """The gradients gathered for the next optimizer step."""
        return self._guard.gradients() if self._guard is not None else {}

    def put_gradients(self, saved: Mapping[str, Any]) -> None:
        """Put back what `gradients` gave."""
        if self._guard is not None:
            self._guard.put_gradients(saved)

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._persister.busy

    def poll(self) -> None:
        """Look at what became of the last save.

        Raises:
            RunFenced: a newer attempt owns the run.
            SaveFailedError: it failed, and ``on_error="raise"``.
        """
        self._collect_torn()
        for pending in [one for one in self._undecided if one.done()]:
            self._undecided.remove(pending)
            if pending.problem is not None:
                self._failed(pending.problem)
            else:
                self.durable = pending.result()
                self._say_whether_good(self.durable)

    def _failed(self, problem: BaseException) -> None:
        if isinstance(problem, RunFenced):
            raise problem
        if self._on_error == "raise":
            raise problem
        message = f"{problem}\n  training goes on; the next save will be tried"
        self._note(message)
        warnings.warn(message, MilepostWarning, stacklevel=5)

    def _say_whether_good(self, saved: Listed) -> None:
        good = saved.summary is None or saved.summary.good
        if self._good and not good and saved.summary is not None:
            self._warn(
                f"step {saved.step} is saved, but is not good: {saved.summary.why_not_good}; "
                "a restart goes back to the newest that is"
            )
        self._good = good

    def mark(self, position: Position, metrics: Mapping[str, float], own: Mapping[str, Any]) -> Marked:
        """Remember a state that may be saved later: plain values are copied, tensors are watched."""
        captured = self._capture(position, metrics, own, ())
        leaves = [leaf for found in captured.leaves.values() for leaf in found]
        others = [leaf for leaf in leaves if leaf.info.address is not None and leaf.info.type == "numpy"]
        glimpses = Glimpses(((leaf.info.address or 0, leaf.info.nbytes) for leaf in others), 1 << 16)
        intact = self._guard.note_all([leaf.value for leaf in leaves]) if self._guard is not None else _always
        return Marked(captured, lambda: intact() and glimpses.same())

    def save(
        self,
        position: Position,
        metrics: Mapping[str, float],
        own: Mapping[str, Any],
        *,
        marked: Captured | None = None,
        must: bool = False,
    ) -> Pending | None:
        """Take a snapshot now and persist it in the background; None if it was skipped since one is in flight.

        Args:
            position: where the run is; like the next two, captured beside the items.
            metrics: what the checkpoint says of itself.
            own: the state that milepost keeps for itself.
            marked: the state to save in place of what is captured now; it must still be intact.
            must: wait for the one in flight, whatever ``on_busy`` says.

        Raises:
            NotStorableError: a value that cannot be stored; nothing was saved.
            RunFenced, SaveFailedError: see `poll`.
        """
        started = time.perf_counter()
        if self._persister.busy and self._on_busy == "skip" and self._torn is None and not must:
            self._note(f"step {position.step} is not saved: the last save is still in flight")
            return None
        self._persister.wait()
        waited = time.perf_counter() - started
        if waited > 0.1:
            self._note(f"waited {waited:.1f} s for the save in flight before saving step {position.step}")
        self._collect_torn()
        self.poll()
        overlap = self._overlap and self._steps_seen > 0 and marked is None
        noted = self._guard.note() if overlap and self._guard is not None else None
        captured = marked or self._capture(position, metrics, own, noted.addresses if noted is not None else ())
        pending, self._torn = self._torn or Pending(position.step), None
        pending.step = position.step
        for room in self._rooms:
            room.check(self._needed())
        snapshot, self._staged = self._stager.stage(captured, noted or _always)
        self._show(position.step, SaveState.WRITING)
        pending.on_staged = lambda: self._show(pending.step, SaveState.ON_NODE)
        pending.on_decided = lambda: self._show(
            pending.step, SaveState.DURABLE if pending.problem is None else SaveState.FAILED
        )
        self._persister.submit(snapshot, pending)
        self._undecided.append(pending)
        self.newest = pending
        if self._stager.streams(captured):
            self._persister.wait()
        self.stall_seconds += time.perf_counter() - started
        return pending

    def _capture(
        self, position: Position, metrics: Mapping[str, float], own: Mapping[str, Any], owned: Collection[int]
    ) -> Captured:
        structures, leaves = self._capturer.items(self._items.values(), owned, hold=self._hold)
        structures[RESERVED], own_leaves = self._capturer.own(dict(own))
        if own_leaves:
            leaves[RESERVED] = own_leaves
        return Captured(position, metrics, structures, leaves, self._stems, self._written_by)

    def _collect_torn(self) -> None:
        """A snapshot that was torn is taken again: the same promise, by copy this time."""
        if self._undecided and isinstance(torn := self._undecided[-1].problem, TornSnapshot):
            self._torn = self._undecided.pop().again()
            self._note(f"{torn}; that snapshot is taken again by copy")
            self._overlap = self._hold = False

    def _wait_staged(self) -> None:
        staged = self._staged
        if staged is not None and not staged.done:
            started = time.perf_counter()
            staged.wait()
            self.stall_seconds += time.perf_counter() - started

    def check_torn(self) -> bool:
        """Whether the last snapshot must be taken again; looked at before each boundary."""
        if self._staged is not None and self._staged.torn:
            self._persister.wait()  # it gives up at once
        self._collect_torn()
        return self._torn is not None

    # -- waiting and ending ------------------------------------------------------------------------------------------------

    def wait(self, patience: float | None = None) -> bool:
        """Block until all that was saved is decided. Raises like `poll`.

        Args:
            patience: seconds that may be spent on the way from the node's disk to the run directory.

        Returns:
            False if time was up before.
        """
        self._persister.wait()
        self._collect_torn()
        brought = self._drain is None or self._drain.wait(patience)
        self.poll()
        return brought

    def bring(self, listed: Listed, storage: Storage) -> None:
        """Bring a checkpoint that an earlier attempt left on the disk of this node to the run directory."""
        assert self._drain is not None
        pending = Pending(listed.step)
        self._undecided.append(pending)
        self._drain.submit(listed, pending, storage)

    def hurry(self) -> None:
        """The job ends: nothing is held back any more for the sake of ``drain_bandwidth=``."""
        if self._drain is not None:
            self._drain.hurry()

    def abandon(self) -> None:
        """There is no time to bring to the run directory what is on the node's disk."""
        if self._drain is not None:
            self._drain.abandon()

    def close(self) -> BaseException | None:
        """Finish the save in flight and let go of the optimizers; returns why the newest save failed, if it did."""
        if self._guard is not None:
            self._guard.close()
        self._stager.close()
        self._persister.close()
        newest = self.newest
        left = self._drain is not None and self._drain.abandoned
        return newest.problem if newest is not None and not left else None

    def _needed(self) -> int:
        """Bytes that the next save takes: what the last one wrote, else the whole state."""
        summary = self.durable.summary if self.durable is not None else None
        return self.state_bytes if summary is None else summary.new_bytes


def _always() -> bool:
    return True


def failure(problem: BaseException) -> BaseException:
    """What closing raises for a save that failed."""
    if isinstance(problem, TornSnapshot):
        return SaveFailedError("the last snapshot changed while it was copied, and there was no time to take it again")
    return problem
