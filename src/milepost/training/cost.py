"""What a save costs training: the time it stood still, and what it went slower while the save was in flight."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

REMEMBERED = 64


class SaveCost:
    """Measures from the times between steps: those with a save in flight against the median of those without.

    Example:
        >>> cost = SaveCost(stalled=lambda: saver.stall_seconds)
        >>> cost.stepped(busy=False)   # after every step
        >>> cost.save_begins()         # None before the first save, then the seconds that the one before cost
    """

    def __init__(self, stalled: Callable[[], float], clock: Callable[[], float] = time.perf_counter) -> None:
        self._stalled, self._clock = stalled, clock
        self._last: float | None = None
        self._idle: deque[float] = deque(maxlen=REMEMBERED)
        self._busy = 0.0
        self._busy_steps = 0
        self._stalled_before: float | None = None
        self._stalled_at_step = 0.0

    def stepped(self, *, busy: bool) -> None:
        """A step was made; `busy` if a save is in flight or was during it."""
        now, stalled = self._clock(), self._stalled()
        if self._last is not None:
            # Time that training stood still is counted on its own.
            moving = now - self._last - (stalled - self._stalled_at_step)
            if busy:
                self._busy += moving
                self._busy_steps += 1
            else:
                self._idle.append(moving)
        self._last, self._stalled_at_step = now, stalled

    def pause(self) -> None:
        """What comes now is no step (validation, say): the time until the next step does not count."""
        self._last = None

    def save_begins(self) -> float | None:
        """The seconds that the save before this one cost; None if there was none."""
        stalled, before = self._stalled(), self._stalled_before
        self._stalled_before = stalled
        slowdown = self._busy - self._busy_steps * median(self._idle) if self._idle else 0.0
        self._busy, self._busy_steps = 0.0, 0
        return None if before is None else stalled - before + max(0.0, slowdown)
