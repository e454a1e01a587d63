"""The trace of an attempt: a line of JSON for each step, for people and for a later comparison. Never needed to continue."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from milepost.folder import names
from milepost.storage.base import Storage


class Trace:
    """Appends to ``attempts/N.trace.jsonl``. A storage that refuses ends the trace, not the training."""

    def __init__(self, run: Storage, attempt: int) -> None:
        self._run = run
        self._path: str | None = names.attempt_trace(attempt)

    def write(self, step: int, epoch: int, batch: int, metrics: Mapping[str, float]) -> None:
        """One step."""
        if self._path is None:
            return
        shown = {name: value if value == value else None for name, value in metrics.items()}
        line = msgspec.json.encode({"step": step, "epoch": epoch, "batch": batch, **shown}) + b"\n"
        try:
            self._run.append(self._path, line)
        except OSError:
            self._path = None
