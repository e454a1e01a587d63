"""What an attempt leaves on record of its steps, and what it says of itself when they differ from those on record."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Literal

from milepost.errors import MilepostWarning, NotExactError
from milepost.training.display import Display
from milepost.training.metrics import Metrics
from milepost.training.opening import Opened
from milepost.training.progress import Progress
from milepost.training.trace import Trace


class Recording:
    """Writes the trace of an attempt, and compares it with what an earlier one did after the same checkpoint.

    Args:
        opened: the attempt, and what it continues.
        display: where people are told.
        on_mismatch: "warn", or "stop" by an error.
    """

    def __init__(self, opened: Opened, display: Display, on_mismatch: Literal["warn", "stop"]) -> None:
        self._trace = Trace(opened.run.storage, opened.attempt.number)
        self._continuation = opened.report.continuation
        self._changed, self._display, self._on_mismatch = opened.changed, display, on_mismatch

    def handed(self, batch: object) -> None:
        """A batch is handed out."""
        self._trace.handed(batch)

    def step(self, where: Progress, metrics: Metrics, given: Iterable[str], *, ended: bool = False) -> None:
        """A step was made, or an epoch `ended`; `given` names the metrics that came with it.

        Raises:
            NotExactError: it is not what the earlier attempt did, and that is to stop this one.
        """
        known = metrics.read_cheap()
        now = {name: known[name] for name in given if name in known}
        line = self._trace.write(where.step, where.epoch, where.batch, now, ended=ended)
        if self._continuation.state != "checking":
            return
        found = self._continuation.compare(line)
        if found is not None:
            self._differs(found)
        elif self._continuation.state != "checking":
            self._display.note(str(self._continuation))

    def _differs(self, found: NotExactError) -> None:
        if self._changed:
            self._display.note(f"{found}\n  (it was changed since that checkpoint: {'; '.join(self._changed)})")
        elif self._on_mismatch == "stop":
            raise found
        else:
            self._display.warn(str(found))
            warnings.warn(str(found), MilepostWarning, stacklevel=5)

    def end(self) -> None:
        """No more steps come."""
        if self._continuation.state == "checking":
            self._continuation.close()
            self._display.note(str(self._continuation))
