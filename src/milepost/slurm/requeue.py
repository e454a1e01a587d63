"""Putting the job back into the queue, so that the same command goes on in it."""

from __future__ import annotations

import time

from milepost.slurm.control import SlurmSilentError, ask
from milepost.slurm.job import Job

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
    state, reason = state_of(job)
    if state == "RUNNING" or (state == "COMPLETING" and reason == "TimeLimit"):
        ask("scontrol", "requeue", job.name)
        return f"job {job.name} is requeued"
    return f"job {job.name} is left to Slurm, which is ending it already ({state.lower() or 'gone'})"


def state_of(job: Job) -> tuple[str, str]:
    """The state of `job` ("RUNNING") and the reason that Slurm gives for it.

    Raises:
        SlurmError: Slurm did not say.
    """
    told = ask("squeue", "--noheader", f"--jobs={job.name}", "--states=all", "--format=%T %r").split(maxsplit=1)
    return (told[0], told[1]) if len(told) == 2 else ("", "")
