"""The Slurm job around this process, as its environment tells."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

UNATTENDED = "MILEPOST_UNATTENDED"
"""Set where a notebook runs without a person: see `milepost.slurm.notebook`."""


class Reach(StrEnum):
    """How the signals that Slurm sends reach this process."""

    TASK = "task"
    """A task of ``srun``: it gets them all but those for the batch shell (``--signal=B:``)."""
    SHELL = "shell"
    """It took the batch shell's place (``exec python``): it gets them all."""
    CHILD = "child"
    """A plain child of the batch script: it gets none under ``proctrack/cgroup``, and at the limit only the kill."""


@dataclass(frozen=True)
class Job:
    """A Slurm job. `name` is what ``scontrol`` calls it: an array task has one of its own, since its job id may stand for the
    whole array."""

    id: str
    name: str
    restarts: int
    reach: Reach
    tmpdir: Path | None
    end: float | None
    """Seconds since the epoch, where the environment has it; it does not follow a limit that is extended."""

    @classmethod
    def numbered(cls, number: str) -> Job:
        """Another job, of which no more is known than its number."""
        return cls(number, number, 0, Reach.CHILD, None, None)

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Job | None:
        """The job this process belongs to, or None.

        Example:
            >>> Job.here({"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}).name
            '7_1'
        """
        number = environment.get("SLURM_JOB_ID")
        if not number:
            return None
        array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
        name = f"{array}_{task}" if array and task else environment.get("SLURM_HET_JOB_ID") or number
        return cls(
            id=number,
            name=name,
            restarts=_count(environment.get("SLURM_RESTART_COUNT")),
            reach=_reach(environment),
            tmpdir=node_local(environment),
            end=_count(environment.get("SLURM_JOB_END_TIME")) or None,
        )


def node_local(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder for temporary files that a site gives its jobs, if it is there."""
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        path = environment.get(name)
        if path and os.access(path, os.W_OK | os.X_OK):
            return Path(path)
    return None


def interactive() -> bool:
    """Whether a person is typing: in a notebook or a Python shell."""
    return ("ipykernel" in sys.modules or hasattr(sys, "ps1")) and not os.environ.get(UNATTENDED)


def _count(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _reach(environment: Mapping[str, str]) -> Reach:
    if environment.get("SLURM_STEP_ID", "").isdecimal():
        return Reach.TASK
    return Reach.SHELL if environment.get("SLURM_TASK_PID") == str(os.getpid()) else Reach.CHILD
