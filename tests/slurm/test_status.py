"""``milepost slurm status``: a run in jobs, as both tell of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slurm_play import squeue

import milepost
from milepost.cli.main import main

Play = Callable[..., None]


def status(capsys: pytest.CaptureFixture[str], run: Path) -> Any:
    assert main(["slurm", "status", str(run), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def train(directory: Path, *, die_at: int | None) -> None:
    """Save at every third step; die at step `die_at` as by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            with milepost.Checkpointer(directory, w=np.zeros(1), every=milepost.Every(steps=3), progress=False) as run:
                for _ in run.steps(20):
                    run.step(w=run["w"] + 1)
                    run.wait()
                    if run.progress.step == die_at:
                        os._exit(0)
        finally:
            os._exit(1)
    os.waitpid(child, 0)


def test_a_run_that_lost_work(
    slurm: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As of an array, whose number is that of one of its tasks.
    slurm(squeue=f'echo "13 PENDING 1 1 BeginTime"; {squeue("12", left=7200)}')
    run = tmp_path / "run"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for restart, end in enumerate((8, 13, 13)):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        train(run, die_at=end)
    monkeypatch.delenv("SLURM_JOB_ID")
    found = status(capsys, run)
    assert (found["job"], found["restarts"], found["job_state"]) == ("12", 2, "RUNNING")
    assert 7100 < found["seconds_left"] <= 7200
    assert (found["checkpoint"], found["step"], found["attempts"]) == ("step-00000012", 12, 3)
    assert found["lost_steps"] == 4, "7 and 8, then 13 twice"
    assert found["lost_seconds"] > 0
    assert main(["slurm", "status", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "job:         12 (restart 2) on " in shown
    assert "lost so far: 4 steps, about " in shown
    assert "time left:   120 min" in shown


def test_a_run_outside_of_slurm(slurm: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", die_at=None)
    found = status(capsys, tmp_path / "run")
    assert (found["job"], found["job_state"], found["seconds_left"]) == (None, None, None)
    assert (found["state"], found["step"], found["lost_steps"]) == ("complete", 20, 0)


def test_where_slurm_cannot_be_asked(
    slurm: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    train(tmp_path / "run", die_at=4)
    monkeypatch.delenv("SLURM_JOB_ID")
    found = status(capsys, tmp_path / "run")
    assert (found["job"], found["job_state"], found["reason"], found["state"]) == ("12", None, None, "died")


def test_where_there_is_no_run(slurm: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "status", str(tmp_path)]) == 4
    assert "neither a run directory" in capsys.readouterr().err
