"""Questions to Slurm: what is asked, and what becomes of each answer."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_play import asked, squeue

from milepost.errors import SlurmError
from milepost.slurm import control, requeue
from milepost.slurm.end_time import EndTime, ask_end, pause
from milepost.slurm.job import Job, Reach
from milepost.slurm.queue import has_ended, state_of

JOB = Job("40", "40_7", 0, Reach.TASK, None, None)
Play = Callable[..., None]


def test_the_end_of_a_job(slurm: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    slurm(squeue='[ -z "$SQUEUE_STATES" ] && [ "$SLURM_TIME_FORMAT" = %s ] && echo "40  4:00:00    1795593272   "')
    assert ask_end(JOB, 5) == 1795593272.0
    asks = "squeue --noheader --states=all --jobs=40_7 --Format=JobID:80,TimeLimit:80,EndTime:80"
    assert asked(tmp_path) == [asks]


@pytest.mark.parametrize("answer", ["UNLIMITED NONE", "UNLIMITED 1827129272", "INVALID N/A"])
def test_a_job_without_a_limit_has_no_end(slurm: Play, answer: str) -> None:
    slurm(squeue=f"echo '40 {answer}   '")
    end = EndTime(JOB)
    assert (end.at, end.problem) == (None, None)
    end.close()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo gibberish", "no time"),
        ("echo 'Invalid job id specified' >&2; exit 1", "Invalid job id"),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "Unable to contact"),
    ],
)
def test_no_answer_is_told_and_what_was_known_stays(slurm: Play, script: str, told: str) -> None:
    slurm(squeue=script)
    end = EndTime(dataclasses.replace(JOB, end=1000.0))
    assert end.at == 1000.0
    assert told in str(end.problem)
    end.close()


def test_where_there_is_no_slurm(slurm: Play) -> None:
    assert not control.available("squeue")
    with pytest.raises(SlurmError, match="not here"):
        ask_end(JOB, 5)


def test_a_controller_that_does_not_answer(slurm: Play) -> None:
    slurm(squeue="read -t 30 < <(:); exec /bin/sleep 30")
    with pytest.raises(control.SlurmSilentError, match="did not answer"):
        ask_end(JOB, 0.1)


def test_a_limit_that_is_extended_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.slurm.end_time.REFRESH_SECONDS", (0.0, 0.0))
    extended = threading.Event()
    end = EndTime(JOB, lambda job, seconds: 200.0 if extended.is_set() else 100.0)
    assert end.at == 100.0
    extended.set()
    while end.at != 200.0:
        time.sleep(0)
    end.close()


def test_how_often_slurm_is_asked() -> None:
    assert [pause(left) for left in (None, 86_400, 400, 10, -5)] == [300, 300, 100, 15, 15]


# -- requeueing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["RUNNING 1 1 None", "COMPLETING 1 1 TimeLimit"])
def test_a_job_goes_back_into_the_queue(slurm: Play, tmp_path: Path, state: str) -> None:
    slurm(squeue=squeue("40", state), scontrol="")
    assert requeue.requeue(JOB) == "job 40_7 is requeued"
    assert asked(tmp_path)[-1] == "scontrol requeue 40_7"


@pytest.mark.parametrize("state", ["COMPLETING 1 1 None", "PENDING 1 1 BeginTime, or so", "CANCELLED 1 1 None", ""])
def test_a_job_that_slurm_is_ending_is_left_alone(slurm: Play, tmp_path: Path, state: str) -> None:
    """Above all, a job that was cancelled must not come back."""
    slurm(squeue=squeue("40", state), scontrol="")
    assert "left to Slurm" in requeue.requeue(JOB)
    assert not any(line.startswith("scontrol") for line in asked(tmp_path))


def test_where_it_is_not_allowed_it_is_not_tried_again(slurm: Play, tmp_path: Path) -> None:
    slurm(
        squeue=squeue("40"),
        scontrol="echo 'Requested operation is presently disabled for job 40_7' >&2; exit 1",
    )
    with pytest.raises(SlurmError, match="presently disabled"):
        requeue.requeue(JOB)
    assert len(asked(tmp_path)) == 2


@pytest.mark.parametrize(("state", "told"), [("RUNNING 0 1 None", "--no-requeue"), ("RUNNING 1 0 None", "sbatch")])
def test_what_slurm_would_refuse_is_not_asked_for(slurm: Play, tmp_path: Path, state: str, told: str) -> None:
    slurm(squeue=squeue("40", state), scontrol="")
    with pytest.raises(SlurmError, match=told):
        requeue.requeue(JOB)
    assert not any(line.startswith("scontrol") for line in asked(tmp_path))


def test_the_number_of_an_array_is_that_of_one_of_its_tasks(slurm: Play) -> None:
    slurm(squeue=f'echo "41 FAILED 1 1 NonZeroExitCode"; {squeue("40", "PENDING 1 1 Nodes are down, all of them")}')
    assert state_of(JOB) == ("PENDING", True, True, "Nodes are down, all of them")


@pytest.mark.parametrize(
    ("state", "ended"),
    [("TIMEOUT 0 1 TimeLimit", True), ("NODE_FAIL 0 1 None", True), ("RUNNING 1 1 None", False), ("COMPLETING 1 1 None", False),
     ("PENDING 1 1 BeginTime", False)],
)  # fmt: skip
def test_whether_a_job_is_over(slurm: Play, state: str, ended: bool) -> None:
    slurm(squeue=squeue("40", state))
    assert has_ended("40") == ended
    assert not has_ended("41"), "one that Slurm does not know may be of another cluster"


def test_a_controller_that_is_starting_again_is_asked_again(
    slurm: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requeue, "PAUSE_SECONDS", 0.0)
    slurm(
        squeue=squeue("40"),
        scontrol=f"[ -e {tmp_path}/up ] || {{ : > {tmp_path}/up; echo 'Unable to contact slurm controller' >&2; exit 1; }}",
    )
    assert requeue.requeue(JOB) == "job 40_7 is requeued"
    assert asked(tmp_path).count("scontrol requeue 40_7") == 2


def test_without_scontrol(slurm: Play) -> None:
    slurm(squeue=squeue("40"))
    with pytest.raises(SlurmError, match="scontrol is not here"):
        requeue.requeue(JOB)
