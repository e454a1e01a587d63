"""A run whose loop is a framework's own: `HostedRun`, the interface for adapters such as the Keras callback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from milepost.training.checkpointer import Checkpointer
from milepost.training.rng import GlobalRng


class HostedRun(Checkpointer):
    """A `Checkpointer` that is told where training stands.

    ``run.epochs`` and ``run.batches`` see that for themselves. Where the loop is a framework's own (``model.fit``), its adapter
    says so from the framework's hooks, in this order::

        begin(epoch), or, where a checkpoint was restored, arrived() once training stands where it was taken
        each epoch:   steps_done(...) after each execution      may save, and may raise Stopped
                      batches_done()  before validation         remembers the state, for signals that come from now on
                      validating()    between its batches       may save what was remembered, and raise Stopped
                      epoch_done(...) after validation          may save, and may raise Stopped
        close(), or abandon(problem)

    It takes the arguments of `Checkpointer`.
    """

    @property
    def rng(self) -> GlobalRng:
        """The global random generators, whose state is in each checkpoint."""
        return self._session.rng

    @property
    def watched(self) -> bool:
        """Whether somebody (`milepost audit`) looks at what is handed out: tell it by `handed`."""
        return self._session.watched

    def handed(self, place: str, batch: object) -> None:
        """The framework hands out `batch`, at `place`."""
        self._session.handed_beside(place, batch)

    def begin(self, epoch: int, batch: int = 0) -> None:
        """Training begins in `epoch`, of which `batch` batches are done, whatever was restored."""
        self.progress.move(epoch=epoch, batch=batch)

    def arrived(self) -> None:
        """Training stands where the restored checkpoint was taken: its random state belongs here."""
        self._session.arrived()

    def steps_done(self, count: int, batch: int, metrics: Mapping[str, Any]) -> None:
        """So many steps more were made, and `batch` batches of the epoch are done.

        Raises:
            Stopped: a signal came, and the state is saved.
        """
        self.progress.move(batch=batch)
        self._session.step(metrics, self.progress.step + count)

    def batches_done(self) -> None:
        """The epoch has no more batches; `validating` may follow. The items are captured, and must not be changed in place, or
        `validating` waits with its answer for the end of the epoch."""
        self._session.mark_batches_done()

    def validating(self) -> None:
        """Validation is under way.

        Raises:
            Stopped: a signal came, and the state at `batches_done` is saved.
        """
        self._session.validating()

    def epoch_done(self, metrics: Mapping[str, Any], *, save: bool = False) -> None:
        """One more epoch is done, validation and all. `save`: whatever the policy says.

        Raises:
            Stopped: a signal came, and the state is saved.
        """
        self._session.end_epoch(metrics)
        if save:
            self._session.want_save()
        self._session.boundary(None, between=True)

    def is_inexact(self, why: str) -> None:
        """What comes after the restored checkpoint is not all as it would have been: it is not called exact."""
        self.resume_report.continuation.give_up(why)
        self.note(f"does not continue exactly: {why}")

    def note(self, line: str) -> None:
        """Tell people something."""
        self._display.note(line)

    def warn(self, line: str) -> None:
        """Warn people of something, where they watch the run."""
        self._display.warn(line)

    def abandon(self, problem: BaseException) -> None:
        """Training ended by `problem`: let go of the run."""
        self._close(problem)
