"""What the environment tells of a job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from milepost.slurm.job import Job, Reach


def test_outside_of_slurm_there_is_none() -> None:
    assert Job.here({}) is None
    assert Job.here({"SLURM_JOB_ID": ""}) is None


def test_a_plain_job() -> None:
    job = Job.here({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "3", "SLURM_PROCID": "1"})
    assert job is not None
    assert (job.id, job.name, job.restarts, job.end, job.tmpdir) == ("12", "12", 3, None, None)


def test_the_first_run_has_no_restart_count() -> None:
    job = Job.here({"SLURM_JOB_ID": "12"})
    assert job is not None
    assert job.restarts == 0


def test_an_array_task_goes_by_its_own_name() -> None:
    """The raw number of one of the tasks is also that of the array: requeueing that would requeue all of them."""
    job = Job.here({"SLURM_JOB_ID": "40", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "7"})
    assert job is not None
    assert (job.id, job.name) == ("40", "40_7")


def test_a_heterogeneous_job_goes_by_its_leader() -> None:
    job = Job.here({"SLURM_JOB_ID": "41", "SLURM_HET_JOB_ID": "40"})
    assert job is not None
    assert job.name == "40"


@pytest.mark.parametrize(
    ("environment", "reach"),
    [
        ({"SLURM_STEP_ID": "0", "SLURM_TASK_PID": "1"}, Reach.TASK),
        ({"SLURM_TASK_PID": str(os.getpid())}, Reach.SHELL),
        ({"SLURM_TASK_PID": "1"}, Reach.CHILD),
        ({}, Reach.CHILD),
    ],
)
def test_how_signals_reach_it(environment: dict[str, str], reach: Reach) -> None:
    job = Job.here({"SLURM_JOB_ID": "12", **environment})
    assert job is not None
    assert job.reach is reach


def test_the_folder_of_the_node(tmp_path: Path) -> None:
    own, general = tmp_path / "own", tmp_path / "general"
    general.mkdir()
    environment = {"SLURM_JOB_ID": "1", "SLURM_TMPDIR": str(own), "TMPDIR": str(general)}
    job = Job.here(environment)
    assert job is not None
    assert job.tmpdir == general, "one that is not there is passed over"
    own.mkdir()
    job = Job.here(environment)
    assert job is not None
    assert job.tmpdir == own


def test_the_end_that_the_environment_knows() -> None:
    job = Job.here({"SLURM_JOB_ID": "1", "SLURM_JOB_END_TIME": "1795593272"})
    assert job is not None
    assert job.end == 1795593272.0
