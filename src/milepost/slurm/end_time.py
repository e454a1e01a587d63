"""When the job ends. The limit of a running job can be changed, so Slurm is asked again now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from milepost.errors import SlurmError
from milepost.slurm.job import Job
from milepost.slurm.queue import ask_queue

REFRESH_SECONDS = (15.0, 300.0)
"""Slurm is asked again after a quarter of the time that is left, at least and at most after these."""
FIRST_SECONDS = 5.0
"""How long the first answer may hold up the start."""

UNLIMITED = ("UNLIMITED", "NONE", "N/A", "Unknown")

Ask = Callable[[Job, float], float | None]


def ask_end(job: Job, seconds: float) -> float | None:
    """The end of `job` in seconds since the epoch, None if it has no limit; `seconds` is how long Slurm may take.

    Raises:
        SlurmError: Slurm did not say.
    """
    told = ask_queue(job, "TimeLimit", "EndTime", seconds=seconds)
    limit, end = told or ("", "")
    # Of a job without a limit Slurm says sometimes that it has no end, and sometimes that it ends in a year.
    if limit in UNLIMITED or end in UNLIMITED:
        return None
    if end.isdecimal():
        return float(end)
    raise SlurmError("squeue names an end that is no time", found=end or "nothing")


class EndTime:
    """When a job ends, as far as it is known; a thread keeps it so.

    Args:
        job: whose.
        ask: asks Slurm; for tests.

    Example:
        >>> end = EndTime(Job.here())
        >>> end.at - time.time()
        14392.8
        >>> end.close()
    """

    def __init__(self, job: Job, ask: Ask = ask_end) -> None:
        self._job, self._ask = job, ask
        self.at: float | None = job.end
        """Seconds since the epoch; None if there is no end, or none is known (see `problem`)."""
        self.problem: SlurmError | None = None
        """Why Slurm did not say, if it did not."""
        self._stop = threading.Event()
        self._look(FIRST_SECONDS)
        self._thread = threading.Thread(target=self._refresh, name="milepost-limit", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._stop.set()

    def _look(self, seconds: float) -> None:
        try:
            self.at, self.problem = self._ask(self._job, seconds), None
        except SlurmError as problem:
            self.problem = problem  # what was known stays true, as far as anybody can tell

    def _refresh(self) -> None:
        while not self._stop.wait(pause(None if self.at is None else self.at - time.time())):
            self._look(60.0)


def pause(left: float | None) -> float:
    """Seconds until Slurm is asked again, if so many are left.

    Example:
        >>> pause(7200), pause(200), pause(3), pause(None)
        (300.0, 50.0, 15.0, 300.0)
    """
    least, most = REFRESH_SECONDS
    return most if left is None else max(least, min(left / 4, most))
