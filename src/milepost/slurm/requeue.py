"""Putting the job back into the queue, so that the same command goes on in it."""

from __future__ import annotations

import time

from milepost.errors import SlurmError
from milepost.slurm.control import SlurmSilentError, ask
from milepost.slurm.job import Job
from milepost.slurm.queue import state_of

TRIES = 3
PAUSE_SECONDS = 3.0


def requeue(job: Job) -> str:
    """Put `job` back into the queue if that is right; from normal code, never from a signal's handler.

    Slurm is asked first what it is doing with the job. One that is being ended for its time limit may go back. One
    that is being ended otherwise may not: whoever cancelled it meant it, and one that is requeued or preempted is on its
    way back already.

    Returns:
        What became of it, for people.

    Raises:
        SlurmError: not requeued: it is not allowed (``--no-requeue``, not a batch job), or Slurm did not answer.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            return _requeue(job)
        except SlurmSilentError:  # the controller may be starting again
            if not tries_left:
                raise
            time.sleep(PAUSE_SECONDS)
    raise AssertionError("unreachable")


def _requeue(job: Job) -> str:
    told = state_of(job)
    if told.state != "RUNNING" and (told.state, told.reason) != ("COMPLETING", "TimeLimit"):
        return f"job {job.name} is left to Slurm, which is ending it already ({told.state.lower() or 'gone'})"
    if not told.batch:
        raise SlurmError(f"job {job.name} cannot be requeued: only what was submitted by sbatch can")
    if not told.requeues:
        raise SlurmError(f"job {job.name} may not be requeued (--no-requeue)")
    ask("scontrol", "requeue", job.name)
    return f"job {job.name} is requeued"
