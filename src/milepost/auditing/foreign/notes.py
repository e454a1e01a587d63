"""What a watched process writes down, whatever it trains with; and when it is ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from milepost.auditing.foreign.overlay import Overlay
from milepost.auditing.foreign.records import EARLY, Line, Spec
from milepost.auditing.observer import LARGE, Ended
from milepost.auditing.records import Batch, Head, Log, Samples, digest_of, opaque_batch
from milepost.core.leaves import Leaf, fingerprint, leaves


class Notes:
    """The side of a watcher that does not depend on what it watches.

    Args:
        spec: what the process is to do.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self.overlay = Overlay(spec.mirror, spec.families, spec.folders, spec.log, self._tell)
        self._until = None if spec.seconds is None else time.monotonic() + spec.seconds
        self._files: tuple[Log, Samples] | None = None
        self._over = False
        self._steps = 0
        self._saved_now = False
        self._opaque: list[str] = []

    # -- forks ------------------------------------------------------------------------------------------------------------------

    def about_to_fork(self) -> None:
        """What waits to be written must not be written by the child too."""
        if self._files is not None:
            self._files[1].flush()

    def forked(self) -> None:
        """The process is a child now, with nothing to say unless it trains itself."""
        self._files = None
        self._steps, self._saved_now, self._opaque = 0, False, []

    # -- the end ----------------------------------------------------------------------------------------------------------------

    def _begin_step(self) -> None:
        """A step is about to be made: the first after a checkpoint is where a process is killed that is to be."""
        if self._over:  # the script caught our exit and went on
            os._exit(0)
        kill = self._spec.kill
        if kill is not None and self._saved_now and self._steps >= kill:
            self._write(Line(killed=True))
            os.kill(os.getpid(), signal.SIGKILL)
        self._saved_now = False
        self._steps += 1

    def _end_if_due(self) -> None:
        """End the script if it has made the moments that were wanted, or its time is over."""
        late = self._until is not None and time.monotonic() > self._until
        if late or self._steps == self._spec.moments:
            if late:
                Path(self._spec.log, EARLY).touch()
            self._over = True
            raise Ended(0)

    # -- writing down -------------------------------------------------------------------------------------------------------------

    def _batch(self, loop: str, batch: Any) -> Batch:
        found = {}
        for leaf in leaves(batch, "", attributes):
            found[leaf.path or "."] = self._digest(leaf)
            if leaf.opaque:
                self._opaque.append(opaque_batch(loop, leaf))
        return Batch(loop, found)

    def _tell(self, what: str, one: Any) -> None:
        self._write(Line(**{what: one}))

    def _write(self, line: Line) -> None:
        self._opened()[0].write(line)

    def _opened(self) -> tuple[Log, Samples]:
        """What is written to; it is there once this process has something to say."""
        if self._files is None:
            path = Path(self._spec.log, f"{time.time_ns()}-{os.getpid()}.jsonl")
            rank = os.environ.get("RANK", "0").zfill(6)
            self._files = Log(path, Head(rank, self._spec.mirror, os.getpid(), sys.argv)), Samples(path)
        return self._files

    def _digests(self, found: Iterable[Leaf]) -> dict[str, str]:
        digests = {}
        for leaf in found:
            digests[leaf.path] = self._digest(leaf)
            if leaf.opaque:
                self._opaque.append(f"{leaf.path} ({leaf.kind})")
        return digests

    def _digest(self, leaf: Leaf, *, whole: bool = True) -> str:
        if not whole and leaf.info is not None and leaf.info.nbytes > LARGE:
            return fingerprint(leaf.value)
        digest = digest_of(leaf)
        self._opened()[1].put(digest, leaf)
        return digest


def attributes(value: Any, path: str) -> Mapping[str, Any] | None:
    """What is in an object of a class that nothing else is known of."""
    held = getattr(value, "__dict__", None)
    return held if held and not callable(value) else None
