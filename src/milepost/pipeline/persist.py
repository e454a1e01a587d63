"""Persisting: a thread that makes staged snapshots durable, one at a time, and tells what became of them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from milepost.errors import MilepostError, RunFenced, SaveFailedError
from milepost.folder.commit import Committer
from milepost.folder.run import Listed
from milepost.folder.snapshot import Snapshot, TornSnapshot
from milepost.storage.base import FULL, TRANSIENT, storage_error

RETRY_AFTER_SECONDS = (0.1, 0.5, 2.0)


class Pending:
    """A save that was asked for.

    Example:
        >>> pending = run.save()
        >>> pending.done()
        False
        >>> pending.result().step
        1200
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self._finished = threading.Event()
        self._result: Listed | None = None
        self._problem: BaseException | None = None
        self.asked = time.perf_counter()
        self.on_decided: Callable[[], None] = lambda: None
        self.on_staged: Callable[[], None] = lambda: None
        self.on_node: Listed | None = None
        """With ``stage_dir=``, the checkpoint on the disk of this node, once it is whole there."""
        self.held_back = 0.0
        """Seconds for which it was held back, for the sake of ``drain_bandwidth=``."""
        self.seconds: float | None = None
        """Time from asking to durable, once it is: what it took, not for what it was held back. None if a newer one was durable
        in its place."""

    def done(self) -> bool:
        """Whether it is decided: durable, or failed."""
        return self._finished.is_set()

    def result(self, timeout: float | None = None) -> Listed:
        """Wait until it is durable; returns the checkpoint. With ``stage_dir=`` that may be a newer one which overtook it on the
        way to the run directory.

        Args:
            timeout: seconds to wait at most.

        Raises:
            SaveFailedError: it could not be made durable.
            RunFenced: a newer attempt has taken over.
            TimeoutError: not decided yet.
        """
        if not self._finished.wait(timeout):
            raise TimeoutError(f"the save of step {self.step} is not durable yet")
        if isinstance(self._problem, TornSnapshot):
            raise SaveFailedError(
                f"step {self.step} is not saved: {self._problem}",
                hint="it is taken again at the next boundary of the training loop; wait for it there",
            )
        if self._problem is not None:
            raise self._problem
        assert self._result is not None
        return self._result

    @property
    def problem(self) -> BaseException | None:
        """Why it failed, if it did."""
        return self._problem

    def again(self) -> Pending:
        """Undecided once more: for a snapshot that is taken again. Whoever waits for it waits on."""
        self._finished.clear()
        self._problem = None
        return self

    def resolve(self, result: Listed | None, problem: BaseException | None = None) -> None:
        """Decide it; the first decision stands."""
        if not self._finished.is_set():
            self._result, self._problem = result, problem
            if result is None or result.step == self.step:
                self.seconds = time.perf_counter() - self.asked - self.held_back
            self._finished.set()
            self.on_decided()


class Onward(Protocol):
    """What becomes of a checkpoint that was persisted on the disk of the node: see `milepost.pipeline.drain.Drain`."""

    def withdraw(self, step: int) -> None:
        """Step `step` is going to be written; nobody may read an earlier one of that name any more."""

    def submit(self, listed: Listed, pending: Pending) -> None:
        """It is whole; `pending` is to be decided."""

    def tidy(self) -> None:
        """Remove what nobody needs any more from the node's disk."""

    def straight(self, snapshot: Snapshot) -> Listed:
        """Write to the run directory at once, since the node's disk failed."""

    def close(self) -> None:
        """No more comes."""


class Persister:
    """Commits snapshots in the background.

    Args:
        committer: writes them.
        where: the run, for messages.
        on_warning: called from the thread with what went wrong beside the save (retention, say).
        onward: if they are committed to the disk of the node: what takes them from there.
    """

    def __init__(
        self,
        committer: Committer,
        where: str,
        on_warning: Callable[[str], None],
        onward: Onward | None = None,
    ) -> None:
        self._committer, self._where, self._warn = committer, where, on_warning
        self._onward = onward
        self._jobs: queue.SimpleQueue[tuple[Snapshot, Pending] | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return not self._idle.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until no save is in flight; False if `timeout` seconds passed first."""
        return self._idle.wait(timeout)

    def submit(self, snapshot: Snapshot, pending: Pending) -> None:
        """Persist `snapshot`. Only while none is in flight: its memory belongs to the one before until then."""
        assert self._idle.is_set(), "one save in flight"
        self._idle.clear()
        if self._thread is None or not self._thread.is_alive():
            # Not a daemon: the interpreter waits for it at exit, so that a save in flight is finished.
            self._thread = threading.Thread(target=self._work, name="milepost-persist")
            self._thread.start()
            threading.Thread(target=self._end_with_main_thread, name="milepost-exit", daemon=True).start()
        self._jobs.put((snapshot, pending))

    def close(self) -> None:
        """Finish the save in flight and end the thread."""
        self._stopping.set()
        if self._thread is not None and self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        elif self._onward is not None:
            self._onward.close()
        self._committer.close()

    def _end_with_main_thread(self) -> None:
        # A run that was never closed must not keep the interpreter alive once its save is durable.
        threading.main_thread().join()
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            snapshot, pending = job
            try:
                self._persist(snapshot, pending)
            finally:
                del job, snapshot
                self._idle.set()
        if self._onward is not None:
            self._onward.close()

    def _persist(self, snapshot: Snapshot, pending: Pending) -> None:
        """Commit, tell, and then tidy up: that may take as long as a tenth of the write, and nobody need wait for it."""
        step, onward = snapshot.position.step, self._onward
        if onward is not None:
            onward.withdraw(step)
        committed, problem = durably(lambda: self._committer.commit(snapshot), step, self._where, self._stopping.wait)
        if onward is None:
            pending.resolve(committed, problem)
            if committed is not None:
                tidily(lambda: self._committer.tidy(committed), step, self._warn)
            return
        if committed is not None:
            pending.on_node = committed
            pending.on_staged()
            onward.submit(committed, pending)
        elif isinstance(problem, RunFenced | TornSnapshot):
            pending.resolve(None, problem)
        else:
            self._warn(f"step {step} goes straight to the run directory, not by way of the node's disk: {problem}")
            pending.resolve(*durably(lambda: onward.straight(snapshot), step, self._where, self._stopping.wait))
        tidily(onward.tidy, step, self._warn)


def durably(
    commit: Callable[[], Listed], step: int, where: str, pause: Callable[[float], object]
) -> tuple[Listed | None, BaseException | None]:
    """Commit, and try again what may succeed the next time; the checkpoint, or why there is none. Nothing is raised: a save must
    not take the training down."""
    try:
        return _trying_again(commit, step, where, pause), None
    except (MilepostError, TornSnapshot) as problem:
        return None, problem
    except Exception as problem:  # noqa: BLE001 - whoever asks for the save gets it
        failed = SaveFailedError(f"the save of step {step} failed: {type(problem).__name__}: {problem}", where=where)
        failed.__cause__ = problem
        return None, failed


def _trying_again(commit: Callable[[], Listed], step: int, where: str, pause: Callable[[float], object]) -> Listed:
    for delay in (*RETRY_AFTER_SECONDS, None):
        try:
            return commit()
        except OSError as error:
            if delay is None or error.errno not in TRANSIENT | FULL:
                reason = storage_error(error, f"save step {step}", where)
                failed = SaveFailedError(
                    reason.message, where=reason.where, hint=reason.hint or "the last good checkpoint is untouched"
                )
                raise failed from error
            # Into new files from the staged copy: a sync that failed is never repeated on the same file.
            pause(delay)
    raise AssertionError("unreachable")


def tidily(tidy: Callable[[], object], step: int, warn: Callable[[str], None]) -> None:
    """Do what follows a save; it may fail, and the save stands all the same."""
    try:
        tidy()
    except (OSError, MilepostError) as problem:  # RunFenced too: this save was in time, the next one will meet it
        warn(f"step {step} is saved, but older checkpoints could not be tidied up: {problem}")
