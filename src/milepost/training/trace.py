"""The trace of an attempt: a line of JSON for each step and each end of an epoch, for people and for the comparison after a
restart (`milepost.training.continuation`). Never needed to continue.

A line is written when the step is made, not when it is saved: so it tells what a killed attempt did after its last checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from milepost.core.leaves import fingerprint
from milepost.core.readjson import Unreadable, read_json
from milepost.folder import names
from milepost.storage.base import Storage

BLOCK = 1 << 20


class Line(msgspec.Struct, omit_defaults=True):
    """One step, or one end of an epoch (`ended`).

    `data` has a fingerprint of each batch that was handed out since the line before. A metric that is not finite is written as
    text, which JSON has no number for.
    """

    step: int
    epoch: int
    batch: int
    ended: bool = False
    data: list[str] = []
    metrics: dict[str, float | str] = {}


class Trace:
    """Appends to ``attempts/N.trace.jsonl``. A storage that refuses ends the trace, not the training."""

    def __init__(self, run: Storage, attempt: int) -> None:
        self._run = run
        self._path: str | None = names.attempt_trace(attempt)
        self._data: list[str] = []

    def handed(self, batch: object) -> None:
        """A batch is handed out."""
        self._data.append(fingerprint(batch))

    def write(self, step: int, epoch: int, batch: int, metrics: Mapping[str, float], *, ended: bool = False) -> Line:
        """One step, or one end of an epoch, with the metrics that came with it; returns the line."""
        shown = {name: value if math.isfinite(value) else repr(value) for name, value in metrics.items()}
        line = Line(step, epoch, batch, ended, self._data, shown)
        self._data = []
        if self._path is not None:
            try:
                self._run.append(self._path, msgspec.json.encode(line) + b"\n")
            except OSError:
                self._path = None
        return line


def read_after(run: Storage, attempt: int, step: int) -> list[Line]:
    """What `attempt` did after `step`, in order; nothing where its trace is missing or cannot be read.

    The file is read from its end, where these lines are.
    """
    path = names.attempt_trace(attempt)
    found: list[Line] = []
    rest = b""
    try:
        start = run.stat(path).size
        while start > 0:
            start, stop = max(0, start - BLOCK), start
            data = run.read(path, start, stop - start) + rest
            rest, _, whole = (b"", b"", data) if start == 0 else data.partition(b"\n")
            lines = [line for text in whole.splitlines() if (line := _line(text)) is not None]
            found = [line for line in lines if line.step > step] + found
            if any(line.step <= step for line in lines):
                break
    except OSError:
        return []
    return found


def _line(text: bytes) -> Line | None:
    try:
        return read_json(text, Line)
    except Unreadable:  # the last line of a machine that lost its power
        return None
