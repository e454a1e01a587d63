"""Whether there is still time for another step, before the state must be saved for the end of the job.

What counts is the time until the state is safe, were training to go on now: that of the next step, at whose end comes the next
chance to save, and that of the save until it is durable. Both are taken at the 95th percentile of what was measured, since a
save that comes too late is lost, and one that comes a step early costs a step.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection

REMEMBERED = 64
"""Steps and saves that are remembered: what was slow in the beginning (compiling, caches being filled) is forgotten."""
MARGIN_SECONDS = 10.0
"""Kept free in any case: clocks differ, and the process must end."""
MARGIN_PART = 0.25
"""Kept free in addition, as a part of what the step and the save take."""
GUESSED_BYTES_PER_SECOND = 100e6
"""For the first save, of which nothing was measured: slow shared storage."""


def p95(values: Collection[float]) -> float:
    """The 95th percentile (nearest rank); 0 of nothing.

    Example:
        >>> p95(range(1, 101)), p95([3.0, 1.0])
        (95, 3.0)
    """
    return sorted(values)[math.ceil(0.95 * len(values)) - 1] if values else 0.0


class Deadline:
    """Measures, and says when the time is up.

    Args:
        ends: the end of the job in seconds since the epoch, None if there is none or it is not known; asked again and again.
        clock: seconds since the epoch, for tests.

    Example:
        >>> deadline = Deadline(ends=lambda: time.time() + 30)
        >>> deadline.passed("step")     # at each boundary: a chance to save
        >>> deadline.saved(4.2)         # after each save: the seconds until it was durable
        >>> deadline.reached(nbytes=0)
        False
    """

    def __init__(self, ends: Callable[[], float | None], clock: Callable[[], float] = time.time) -> None:
        self._ends, self._clock = ends, clock
        self._gaps: dict[str, deque[float]] = {}
        self._saves: deque[float] = deque(maxlen=REMEMBERED)
        self._kind: str | None = None
        self._at = 0.0

    def passed(self, kind: str) -> None:
        """Here a save was possible. `kind` tells what comes next: what follows the last batch of an epoch takes longer than
        a step."""
        now = self._clock()
        if self._kind is not None:
            self._gaps.setdefault(self._kind, deque(maxlen=REMEMBERED)).append(now - self._at)
        self._kind, self._at = kind, now

    def saved(self, seconds: float) -> None:
        """A save took so long from being asked for to being durable where a restart finds it."""
        self._saves.append(seconds)

    def saving(self, nbytes: int) -> float:
        """Seconds that a save of `nbytes` bytes takes until it is durable."""
        return p95(self._saves) if self._saves else 1.0 + nbytes / GUESSED_BYTES_PER_SECOND

    def needed(self, nbytes: int) -> float:
        """Seconds that must be left to go on: the next step, the save, and the margin."""
        known = self._gaps.get(self._kind or "") or [gap for gaps in self._gaps.values() for gap in gaps]
        needed = p95(known) + self.saving(nbytes)
        return needed + MARGIN_SECONDS + MARGIN_PART * needed

    @property
    def left(self) -> float | None:
        """Seconds until the end of the job; None if none is known."""
        ends = self._ends()
        return None if ends is None else ends - self._clock()

    def reached(self, nbytes: int) -> bool:
        """Whether to save and end now: going on to the next chance could be too late. `nbytes`: of a first save."""
        left = self.left
        return left is not None and left < self.needed(nbytes)
