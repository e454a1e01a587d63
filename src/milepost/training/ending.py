"""When an attempt must stop although there is more to do, and what then becomes of its job: `Ending`."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable
from pathlib import Path

from milepost.errors import SlurmError
from milepost.folder.lineage import read_records
from milepost.folder.run import RunFolder
from milepost.pipeline.persist import Pending
from milepost.slurm.end_time import EndTime
from milepost.slurm.job import Job, Reach, interactive
from milepost.slurm.requeue import requeue
from milepost.training import options
from milepost.training.deadline import Deadline
from milepost.training.display import Display
from milepost.training.policy import seconds_of
from milepost.training.signals import WARNINGS, Received, SignalWatch

STOPPED = 75
"""Exit code after a stop with the state saved (EX_TEMPFAIL of sysexits.h): if the job is not requeued, run the same
command again."""
STUCK = 76
"""Exit code after such a stop where starting again would not help: no progress in two attempts, or as often requeued
as allowed."""
TIME_LIMIT = "time limit"
GRACE_SECONDS = 10.0
"""So long after a stop, signals do not cut off what the script does at its end: the exit code is to be that of the stop."""
NO_PROGRESS = 2
"""So many attempts in a row that save nothing new end the requeueing."""


class Ending:
    """Notices that an attempt must stop: a signal came, or the time of its job is nearly over.

    Args:
        watch: the signals.
        time_limit: how long this process may live, in seconds or as in "4h"; None for what Slurm says.
        requeue: "auto" puts the Slurm job back into the queue after a stop, "never" does not.
        max_requeues: how often at most in the life of a job.
        display: where people are told.
        job: for tests.

    Raises:
        ScriptError: an option that cannot be.
    """

    def __init__(
        self,
        watch: SignalWatch,
        *,
        time_limit: float | str | None,
        requeue: str,
        max_requeues: int | None,
        display: Display,
        job: Job | None = None,
    ) -> None:
        options.choice("requeue=", requeue, ("auto", "never"))
        if max_requeues is not None:
            options.count("max_requeues=", max_requeues)
        self._watch, self._display = watch, display
        self._requeue, self._max_requeues = requeue == "auto", max_requeues
        own = (
            None
            if time_limit is None
            else process_began() + seconds_of(time_limit, "time_limit= is how long this process may live")
        )
        self._own = own
        self.job = Job.here() if job is None else job
        self._end: EndTime | None = None
        self._deadline = Deadline(self._ends)
        self._pending: list[Pending] = []
        self._up: Received | None = None
        self.state_bytes: Callable[[], int] = lambda: 0
        """The size of the state, for a first save."""
        self._parted = False
        self._left_over: Callable[[], None] | None = None

    def _ends(self) -> float | None:
        known = [end for end in (self._own, self._end.at if self._end else None) if end is not None]
        return min(known, default=None)

    def begin(self) -> None:
        """Watch, and say what is known of the job."""
        self._watch.install()
        if self.job is None:
            return
        self._end = EndTime(self.job)
        left = self._deadline.left
        which = f"Slurm job {self.job.name}" + (f" (restart {self.job.restarts})" if self.job.restarts else "")
        if left is not None:
            self._display.note(f"{which}: {_clock_time(left)} left")
        elif self._end.problem is not None:
            self._display.warn(
                f"{which}: its time limit is not known, so that nothing is saved before it unless a signal comes; "
                f"time_limit= can say it ({self._end.problem.message})"
            )
        else:
            self._display.note(f"{which}: no time limit")
        if self.job.reach is Reach.CHILD and not interactive():
            self._display.note(
                "signals of Slurm may not reach this process, a plain child of the batch script: "
                "put srun or exec before the command"
            )

    @property
    def received(self) -> Received | None:
        """Why to stop, or None."""
        return self._watch.received or self._up

    def passed(self, kind: str) -> None:
        """Here the state could be saved; `kind` tells what comes next. Looks whether there is time for it."""
        self._deadline.passed(kind)
        for pending in [one for one in self._pending if one.done()]:
            self._pending.remove(pending)
            if pending.problem is None and pending.seconds is not None:
                self._deadline.saved(pending.seconds)
        self.look()

    def look(self) -> None:
        """See whether there is still time."""
        if self._up is None and self._deadline.reached(self.state_bytes()):
            self._up = Received(TIME_LIMIT, 0, time.time())

    def saving(self, pending: Pending) -> None:
        """A save began."""
        self._pending.append(pending)

    @property
    def patience(self) -> float | None:
        """Seconds that may be spent on waiting for a save before the job ends; None if no end is known."""
        left = self._deadline.left
        return None if left is None else max(0.0, left - 2.0)

    def parting(self, run: RunFolder, attempt: int) -> tuple[int, str]:
        """The attempt stops with its state saved: the exit code, and what comes next, in words. `finish` then does it."""
        again = "run the same command again to continue"
        self._parted = True
        self._watch.dismiss(seconds=GRACE_SECONDS)
        if self.job is None:
            return STOPPED, again
        if not self._requeue or interactive():
            return STOPPED, again
        if self._max_requeues is not None and self.job.restarts >= self._max_requeues:
            return STUCK, f"not requeued: this job was requeued {self.job.restarts} times, as often as allowed"
        if standing_still(run, attempt, self.job.id) >= NO_PROGRESS:
            return STUCK, f"not requeued: the last {NO_PROGRESS} attempts saved nothing new"
        done: list[bool] = []
        job, display, pid = self.job, self._display, os.getpid()

        def back() -> None:
            if done or os.getpid() != pid:
                return
            done.append(True)
            try:
                display.note(requeue(job))
            except SlurmError as problem:
                display.warn(
                    f"{problem.message}\n"
                    f"not requeued: the next job of a chain continues, or {again}; "
                    f"the exit code is {STOPPED}, by which the job script can tell"
                )

        # A script that does not use ``with`` never comes to `finish`; by then the interpreter has waited for the save.
        atexit.register(back)
        self._left_over = back
        self._watch.dismiss()
        return STOPPED, "this attempt ends"

    def finish(self) -> None:
        """The run is closed: stop watching, or requeue the job if the attempt was stopped.

        Slurm then sends SIGTERM once more, and others go on sending what they sent before: that is not to cut off the end
        of the script. Nor is the warning before the end of a Slurm job to end a script that has more to do than this run.
        """
        if self._end is not None:
            self._end.close()
        if self._left_over is not None:
            self._watch.dismiss()
            atexit.unregister(self._left_over)
            self._left_over()
        elif self._parted:
            self._watch.dismiss(seconds=GRACE_SECONDS)
        elif self.job is not None:
            self._watch.dismiss(WARNINGS)
        else:
            self._watch.uninstall()


def standing_still(run: RunFolder, attempt: int, job: str) -> int:
    """How many attempts of Slurm job `job`, from `attempt` backwards, saved nothing beyond what they began with."""
    records = read_records(run)
    steps = [one.step for one in run.checkpoints() if one.summary is not None and one.summary.attempt == attempt]
    on_node = records[attempt].on_node if attempt in records else None  # which this job may find again
    reached = max([*steps, *([on_node.step] if on_node is not None else [])], default=0)
    count = 0
    for number in sorted((number for number in records if number <= attempt), reverse=True):
        record = records[number]
        began = record.parent.step if record.parent is not None and record.parent.run is None else 0
        if record.owner.slurm_job != job or reached > began:
            break
        count, reached = count + 1, began
    return count


def process_began() -> float:
    """When this process was started, in seconds since the epoch."""
    # Field 22 of proc(5): clock ticks since boot; the name in field 2 may hold anything, and ends with the last bracket.
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def _clock_time(seconds: float) -> str:
    """A length of time as Slurm writes it.

    Example:
        >>> _clock_time(93784)
        '1-02:03:04'
    """
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hour:02}:{minute:02}:{second:02}"
