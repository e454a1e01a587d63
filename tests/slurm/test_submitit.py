"""What submitit is told, and that its answer to a signal waits for the run's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment

import milepost
from milepost.slurm.submitit import Resumable
from milepost.training.session import Stopped


def train(folder: str, *, steps: int) -> int:
    with milepost.Checkpointer(folder, w=np.zeros(1), progress=False) as run:
        for step in run.steps(steps):
            run.step(w=run["w"] + 1)
            if step == 2:
                os.kill(os.getpid(), signal.SIGUSR2)
        return int(run["w"][0])


def test_a_signal_is_answered_by_the_run_and_then_by_submitit_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = DelayedSubmission(Resumable(train), str(tmp_path / "run"), steps=5)
    submission.set_timeout(60, 3)
    submission.dump(tmp_path / "submitted.pkl")
    requeued: list[int] = []
    monkeypatch.setattr(SlurmJobEnvironment, "_requeue", lambda self, countdown: requeued.append(countdown))
    handler = SignalHandler(SlurmJobEnvironment(), JobPaths(tmp_path, "12"), submission)
    earlier = signal.signal(signal.SIGUSR2, handler.checkpoint_and_try_requeue)
    try:
        with pytest.raises(Stopped):
            submission.result()
        assert requeued == [], "submitit would have ended it in the middle of a step"
        assert submission.result() == 5
        with pytest.raises(SystemExit):  # no run is open: submitit's own way
            os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, earlier)
    assert requeued == [3]
    again = DelayedSubmission.load(JobPaths(tmp_path, "12").submitted_pickle)
    assert (again.args, again.kwargs) == (submission.args, submission.kwargs)
    assert again.function(*again.args, **again.kwargs) == 5
