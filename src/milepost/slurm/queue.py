"""What Slurm's queue tells of a job."""

from __future__ import annotations

from typing import NamedTuple

from milepost.errors import SlurmError
from milepost.slurm.control import SECONDS, ask
from milepost.slurm.job import Job

ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
)
"""States of a job that has no processes any more, and does not come back by itself."""


class State(NamedTuple):
    """The state of a job ("RUNNING"; "" if it is gone), whether it may be requeued and is a batch job, and Slurm's reason for the
    state."""

    state: str
    requeues: bool
    batch: bool
    reason: str


def state_of(job: Job) -> State:
    """What Slurm is doing with `job`.

    Raises:
        SlurmError: Slurm did not say.
    """
    told = ask_queue(job, "State", "Requeue", "BatchFlag", "Reason")
    if told is None:
        return State("", False, False, "")
    state, requeue, batch, reason = told
    return State(state, requeue == "1", batch == "1", reason)


def has_ended(number: str) -> bool:
    """Whether job `number` is over. False if Slurm does not say, or does not know it any more."""
    try:
        return state_of(Job.numbered(number)).state in ENDED
    except SlurmError:
        return False


def ask_queue(job: Job, *fields: str, seconds: float = SECONDS) -> list[str] | None:
    """The values of `fields` of squeue's ``--Format``, of which the last alone may hold spaces; None if the job is not there.

    Raises:
        SlurmError: Slurm did not say, in so many `seconds` at most.
    """
    columns = ",".join(f"{field}:80" for field in ("JobID", *fields))
    told = ask(
        "squeue", "--noheader", "--states=all", f"--jobs={job.name}", f"--Format={columns}", seconds=seconds
    ).splitlines()
    # The number of a whole array is that of one of its tasks, too.
    rows = (line.strip().split(maxsplit=len(fields)) for line in told)
    return next((row[1:] for row in rows if len(row) == 1 + len(fields) and row[0] == job.id), None)
