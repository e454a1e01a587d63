"""Holding training back until enough is durable: `Hold`."""

from __future__ import annotations

import time
from collections import deque
from statistics import median

from milepost.training.display import Display
from milepost.training.due import Due
from milepost.training.ending import Ending
from milepost.training.progress import Progress
from milepost.training.saver import Saver

LOOK_SECONDS = 0.2
"""While it waits, it looks for signals and at the time that is left this often."""
WORTH_TELLING_SECONDS = 0.5
REMEMBERED = 64


class Hold:
    """Lets training get no further beyond what is durable than its policy allows: ``Every(..., durable=True)``.

    Args:
        due: knows how far that is.
        saver: knows what is durable.
        ending: the end of the job is waited for by nobody.
        display: told, once, if training has to wait.
    """

    def __init__(self, due: Due, saver: Saver, ending: Ending, display: Display) -> None:
        self._due, self._saver, self._ending, self._display = due, saver, ending, display
        self._known: int | None = None
        self._told = False
        self._left: tuple[float, int] | None = None
        self._steps: deque[float] = deque(maxlen=REMEMBERED)
        """Seconds that the last steps took."""

    def keep(self, progress: Progress) -> bool:
        """The run is at `progress`, between two steps: wait if it may not go on yet. Where no save is under way, none can be waited
        for: it failed, or none was possible here.

        Returns:
            False if there came a reason to stop.
        """
        began = self._arrived(progress.step)
        self._look(progress, 0.0)
        while self._due.holds(progress) and self._ending.received is None:
            nothing_left = self._saver.wait(LOOK_SECONDS)
            self._look(progress, time.perf_counter() - began)
            self._ending.look()
            if nothing_left:
                break
        self._left = time.perf_counter(), progress.step
        waited = self._left[0] - began
        self._saver.stall_seconds += waited
        if waited > WORTH_TELLING_SECONDS and not self._told:
            self._told = True
            self._display.note(
                f"waited {waited:.1f} s until step {self._known} was durable: training may not get further ahead"
            )
        return not self._due.holds(progress) or self._ending.received is None

    def _arrived(self, step: int) -> float:
        now = time.perf_counter()
        if self._left is not None and step > self._left[1]:
            self._steps.append((now - self._left[0]) / (step - self._left[1]))
        return now

    def _look(self, progress: Progress, waited: float) -> None:
        durable = self._saver.durable
        if durable is not None and durable.step != self._known:
            self._known = durable.step
            self._due.durable(durable.step, progress, waited / median(self._steps) if self._steps else 0.0)
