"""Where a run is."""

from __future__ import annotations

import time
from enum import StrEnum

from milepost.training.metrics import Metrics


class Phase(StrEnum):
    """What of an epoch is done."""

    IN_EPOCH = "in-epoch"
    """Batches of the current epoch are being trained on, or are about to be."""
    BATCHES_DONE = "batches-done"
    """All batches of the current epoch are done, the epoch is not: validation, say, is to come."""
    EPOCH_ENDED = "epoch-ended"
    """An epoch has just been counted, and nothing of the next has happened."""


class Progress:
    """Where the run is, always as of now. It can be read; only the `Checkpointer` moves it.

    Example:
        >>> progress = Progress(step=1200, epoch=2, batch=262)
        >>> progress.step, progress.phase.value
        (1200, 'in-epoch')
        >>> progress
        Progress(step=1200, epoch=2, batch=262, attempt=1, phase='in-epoch')
    """

    __slots__ = ("_attempt", "_batch", "_epoch", "_metrics", "_phase", "_started", "_step")

    def __init__(
        self,
        step: int = 0,
        epoch: int = 0,
        batch: int = 0,
        phase: Phase = Phase.IN_EPOCH,
        *,
        attempt: int = 1,
        metrics: Metrics | None = None,
    ) -> None:
        self._step, self._epoch, self._batch, self._phase = step, epoch, batch, phase
        self._attempt = attempt
        self._metrics = Metrics() if metrics is None else metrics
        self._started = time.monotonic()

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._step

    @property
    def epoch(self) -> int:
        """Epochs done, which is also the number of the current one, counted from 0."""
        return self._epoch

    @property
    def batch(self) -> int:
        """Batches of the current epoch done."""
        return self._batch

    @property
    def phase(self) -> Phase:
        """What of the epoch is done."""
        return self._phase

    @property
    def attempt(self) -> int:
        """Which process life of the run this is, counted from 1."""
        return self._attempt

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of every metric. Reading waits for a device that has not computed it yet."""
        return self._metrics.read()

    @property
    def elapsed(self) -> float:
        """Seconds since this attempt began."""
        return time.monotonic() - self._started

    def move(
        self, step: int | None = None, epoch: int | None = None, batch: int | None = None, phase: Phase | None = None
    ) -> None:
        """For the `Checkpointer`: the run has come here; what is None stays."""
        self._step = self._step if step is None else step
        self._epoch = self._epoch if epoch is None else epoch
        self._batch = self._batch if batch is None else batch
        self._phase = self._phase if phase is None else phase

    def __repr__(self) -> str:
        metrics = "".join(f", {name}={value:.6g}" for name, value in self._metrics.read_cheap().items())
        return (
            f"Progress(step={self._step}, epoch={self._epoch}, batch={self._batch}, attempt={self._attempt}, "
            f"phase={self._phase.value!r}{metrics})"
        )
