"""From the node's disk to the run directory, in the background: `Drain`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from milepost.errors import SaveFailedError
from milepost.folder.attempts import Attempt, OnNode
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.commit import Committer
from milepost.folder.nearby import Home
from milepost.folder.retention import Keep, decide
from milepost.folder.run import Listed
from milepost.folder.snapshot import Snapshot
from milepost.pipeline.persist import Pending, durably, tidily
from milepost.storage.base import Storage


@dataclass
class Delivery:
    """A checkpoint on the node's disk that is to get into the run directory."""

    listed: Listed
    storage: Storage
    pending: Pending
    overtaken: list[Pending] = field(default_factory=list)
    """Older saves that are not brought themselves: with this one, what they were for is durable."""
    slept: float = 0.0
    """What `Pace.slept` was when it came: the copy before it was held back, too."""
    withdrawn: bool = False

    @property
    def pendings(self) -> list[Pending]:
        """All that wait for it."""
        return [*self.overtaken, self.pending]


class GivenUp(BaseException):
    """A copy was stopped on its way."""


class Pace:
    """Holds a copy back to so many bytes a second, unless there is a hurry.

    Args:
        bandwidth: bytes a second; None for as fast as it goes.
    """

    def __init__(self, bandwidth: float | None) -> None:
        self._bandwidth = bandwidth
        self._hurry = threading.Event()
        self.slept = 0.0
        """Seconds for which copies were held back in all."""
        self.begin()

    def begin(self) -> None:
        """A new copy begins."""
        self._began, self._nbytes = time.monotonic(), 0

    def hurry(self) -> None:
        """From now on as fast as it goes."""
        self._hurry.set()

    def wait(self, nbytes: int) -> None:
        """So many more bytes were copied: wait until they should have been."""
        self._nbytes += nbytes
        if self._bandwidth is None or self._hurry.is_set():
            return
        now = time.monotonic()
        self._hurry.wait(max(0.0, self._began + self._nbytes / self._bandwidth - now))
        self.slept += time.monotonic() - now


class Drain:
    """Brings checkpoints from the node's disk to the run directory. Implements `milepost.pipeline.persist.Onward`.

    One at a time, in order. One that waits is overtaken by a newer one unless `keep` wants it for itself (the best, those at
    multiples of so many steps), so that saving may be more frequent than bringing can be.

    Args:
        committer: of the run directory.
        attempt: in whose record it is told what is on the node's disk.
        home: the place there.
        keep: what stays in the run directory.
        where: the run, for messages.
        host: this node's name.
        bandwidth: bytes a second at most; None for as fast as it goes.
        on_warning: told what went wrong beside it.
    """

    def __init__(
        self,
        committer: Committer,
        attempt: Attempt,
        home: Home,
        keep: Keep,
        *,
        where: str,
        host: str,
        bandwidth: float | None,
        on_warning: Callable[[str], None],
    ) -> None:
        self._committer, self._attempt, self._home = committer, attempt, home
        self._where, self._host, self._warn = where, host, on_warning
        self._wanted = replace(keep, last=None if keep.last is None else 1, independent=1)
        self._pace = Pace(bandwidth)
        self._change = threading.Condition()
        self._committing = threading.Lock()
        self._waiting: list[Delivery] = []
        self._now: Delivery | None = None
        self._orphans: list[Pending] = []
        self._closed = False
        self.abandoned = False
        """Whether the job had to end before all was brought."""
        self._thread: threading.Thread | None = None

    # -- seen from whoever saves -------------------------------------------------------------------------------------------

    def submit(self, listed: Listed, pending: Pending, storage: Storage | None = None) -> None:
        """Bring checkpoint `listed`, which is whole, from `storage` (else from where this attempt saves)."""
        storage = self._home.run.storage.child(listed.folder) if storage is None else storage
        self._attempt.record.on_node = OnNode(self._host, storage.root.rpartition("/")[0], listed.step)
        try:
            self._attempt.save_record()
        except OSError as error:
            self._warn(f"that step {listed.step} is on the disk of this node could not be recorded: {error}")
        with self._change:
            delivery = Delivery(listed, storage, pending, self._orphans, self._pace.slept)
            self._orphans = []
            if self.abandoned:
                self._leave(delivery)
                return
            self._waiting.append(delivery)
            if self._thread is None:
                # A daemon that the thread which persists waits for at its end, as the interpreter waits for that one.
                self._thread = threading.Thread(target=self._work, name="milepost-drain", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def withdraw(self, step: int) -> None:
        """Step `step` is going to be saved again: what was to be brought is the new one."""
        with self._change:
            now = self._now
            if now is not None and now.listed.step == step:
                now.withdrawn = True
                self._change.wait_for(lambda: self._now is not now)
            for old in [one for one in self._waiting if one.listed.step >= step]:
                self._waiting.remove(old)
                self._orphans += old.pendings

    def straight(self, snapshot: Snapshot) -> Listed:
        """Write `snapshot` to the run directory, when the copy under way is done. It overtakes all that wait."""
        with self._committing:
            committed = self._committer.commit(snapshot)
            tidily(lambda: self._committer.tidy(committed), committed.step, self._warn)
        with self._change:
            overtaken, self._waiting = self._waiting, []
            for pending in (*self._orphans, *(pending for one in overtaken for pending in one.pendings)):
                pending.resolve(committed)
            self._orphans = []
        return committed

    def tidy(self) -> None:
        """Remove what nobody needs any more from the node's disk."""
        with self._change:
            busy = {one.listed.folder for one in (*self._waiting, *filter(None, [self._now]))}
        self._home.tidy(busy)

    def wait(self, seconds: float | None = None) -> bool:
        """Block until nothing is on its way; False if so many seconds passed first."""
        with self._change:
            return self._change.wait_for(lambda: self._now is None and not self._waiting, seconds)

    def hurry(self) -> None:
        """The job ends: no more holding back."""
        self._pace.hurry()

    def abandon(self) -> None:
        """There is no time left: give up what is on its way. It stays on the node's disk."""
        with self._change:
            self.abandoned = True
            self._change.notify_all()
        self._pace.hurry()

    def close(self) -> None:
        """No more comes: finish what is on its way, unless it was abandoned."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()
        for pending in self._orphans:
            pending.resolve(
                None, SaveFailedError(f"step {pending.step} is not saved: it was to be saved again, and that failed")
            )
        self._committer.close()

    # -- the thread -----------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (delivery := self._next()) is not None:
            try:
                self._bring(delivery)
            finally:
                with self._change:
                    self._now = None
                    self._change.notify_all()

    def _next(self) -> Delivery | None:
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed or self.abandoned)
            if self.abandoned:
                for delivery in self._waiting:
                    self._leave(delivery)
                self._waiting.clear()
            if not self._waiting:
                return None
            self._let_overtake()
            self._now = self._waiting.pop(0)
            return self._now

    def _let_overtake(self) -> None:
        """Of those that wait, leave the newest, and what is to be kept for itself."""
        listed = [one.listed for one in self._waiting]
        carried: list[Pending] = []
        left = []
        for one, decision in zip(self._waiting, decide(listed, listed[::-1], self._wanted, {}), strict=True):
            if decision.keep:
                one.overtaken += carried
                carried = []
                left.append(one)
            else:
                carried += one.pendings
        self._waiting = left

    def _bring(self, delivery: Delivery) -> None:
        step = delivery.listed.step
        self._pace.begin()

        def on_bytes(nbytes: int) -> None:
            self._pace.wait(nbytes)
            if self.abandoned or delivery.withdrawn:
                raise GivenUp

        try:
            with self._committing:
                committed, problem = durably(
                    lambda: self._committer.bring(Checkpoint(delivery.storage), on_bytes), step, self._where, time.sleep
                )
        except GivenUp:
            if delivery.withdrawn:
                self._orphans += delivery.pendings  # `withdraw` waits, and the same step comes again
            else:
                self._leave(delivery)
            return
        delivery.pending.held_back = self._pace.slept - delivery.slept
        for pending in delivery.pendings:
            pending.resolve(committed, problem)
        if committed is not None:
            with self._committing:
                tidily(lambda: self._committer.tidy(committed), step, self._warn)

    def _leave(self, delivery: Delivery) -> None:
        problem = SaveFailedError(
            f"step {delivery.listed.step} is on the disk of this node alone: the job ended before it was in the run directory",
            where=delivery.storage.root,
        )
        for pending in delivery.pendings:
            pending.resolve(None, problem)
