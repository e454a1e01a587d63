"""``milepost doctor``: each thing that can be wrong, told apart from what is fine."""

from __future__ import annotations

import errno
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
from milepost.slurm import doctor
from milepost.slurm.doctor import Level, examine
from milepost.storage.trial import Mount, Trial

Play = Callable[..., None]
GOOD = Trial(True, True, True, True, True, 10**12, 0.0, 1e9)
SCONTROL = """case "$*" in *config*) printf '%s\\n' 'JobRequeue = 1' 'ProctrackType = proctrack/cgroup';; esac"""


@pytest.fixture
def job(slurm: Play, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Inside of an srun task of job 12, on a good shared file system."""
    slurm(scontrol=SCONTROL, sinfo="echo 'batch* infinite'", squeue=squeue("12", left=7200))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setattr(doctor, "mount_of", lambda path: Mount("/shared", "lustre"))
    monkeypatch.setattr(doctor, "trial", lambda folder: GOOD)
    return slurm


def bad(directory: Path) -> dict[str, tuple[str, str]]:
    """What is not fine: about -> (level, mend)."""
    return {one.about: (str(one.level), one.mend) for one in examine(str(directory)) if one.level is not Level.FINE}


def test_where_all_is_well(job: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bad(tmp_path / "run") == {}
    assert main(["doctor", str(tmp_path / "run"), "--json"]) == 0
    assert {one["level"] for one in json.loads(capsys.readouterr().out)["findings"]} == {"fine"}


def test_a_plain_child_of_the_script(job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_STEP_ID")
    assert bad(tmp_path) == {"signals": ("wrong", "put srun or exec before the command")}
    job(scontrol=SCONTROL.replace("cgroup", "linuxproc"))
    assert bad(tmp_path)["signals"][0] == "risk"


@pytest.mark.parametrize(
    ("kind", "level"), [("tmpfs", "wrong"), ("xfs", "risk"), ("nfs4", "risk"), ("lustre", None), ("gpfs", None)]
)
def test_file_systems(job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, level: str | None) -> None:
    monkeypatch.setattr(doctor, "mount_of", lambda path: Mount("/x", kind))
    assert bad(tmp_path).get("run directory", (None,))[0] == level


@pytest.mark.parametrize(
    ("change", "about", "level"),
    [
        ({"links": False}, "hard links", "risk"),
        ({"locks": False}, "locks", "risk"),
        ({"rename_replaces": False}, "renaming", "wrong"),
        ({"free": 10**8}, "room", "risk"),
        ({"clock": -30.0}, "clock", "risk"),
    ],
)
def test_what_a_file_system_lacks(
    job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], about: str, level: str
) -> None:
    monkeypatch.setattr(doctor, "trial", lambda folder: GOOD._replace(**change))
    found = bad(tmp_path)
    assert list(found) == [about]
    assert found[about][0] == level
    assert found[about][1], "it says what to do"


def test_where_nothing_can_be_written(job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for problem, about in ((errno.EACCES, "run directory"), (errno.ENOSPC, "room"), (errno.EDQUOT, "room")):

        def refuse(folder: Path, problem: int = problem) -> Trial:
            raise OSError(problem, os.strerror(problem))

        monkeypatch.setattr(doctor, "trial", refuse)
        assert bad(tmp_path)[about][0] == "wrong"


def test_a_limit_shorter_than_a_save(job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with milepost.Checkpointer(tmp_path / "run", w=np.zeros(1_000_000), progress=False) as run:
        run.step(w=run["w"])
    assert bad(tmp_path / "run") == {}
    monkeypatch.setattr(doctor, "trial", lambda folder: GOOD._replace(speed=1000.0))
    assert bad(tmp_path / "run")["time limit"][0] == "wrong"


def test_another_attempt_alive(job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "run"
    with milepost.Checkpointer(directory, w=np.zeros(1), progress=False) as run:
        run.step(w=run["w"])
        assert bad(directory)["attempts"][0] == "wrong"
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert bad(directory) == {}, "the job was requeued: this attempt will be fenced"
        monkeypatch.setenv("SLURM_JOB_ID", "13")
        found = bad(directory)
        assert (found["attempts"][0], found["Slurm"][0]) == ("wrong", "risk")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert bad(directory) == {}


def test_requeue_that_is_not_allowed(job: Play, tmp_path: Path) -> None:
    job(squeue=squeue("12", "RUNNING 1 0 None"))
    assert "no batch job" in next(one.found for one in examine(str(tmp_path)) if one.about == "requeue")
    job(squeue=squeue("12", "RUNNING 0 1 None"))
    assert bad(tmp_path) == {"requeue": ("risk", "submit with --requeue, or a chain: milepost slurm submit --chain")}


def test_slurm_that_does_not_answer(job: Play, tmp_path: Path) -> None:
    job(scontrol="exit 1", squeue="exit 1")
    assert bad(tmp_path)["Slurm"][0] == "risk"


def test_a_container_without_slurm(job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert bad(tmp_path)["requeue"][0] == "risk"


def test_outside_of_slurm_a_disk_of_ones_own_is_fine(
    slurm: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "mount_of", lambda path: Mount("/", "ext4"))
    before = sorted(os.listdir(tmp_path))
    assert main(["doctor", str(tmp_path / "run")]) == 0
    assert "fine   attempts: there is no run here yet" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == before


def test_an_old_torch(job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "2.5.1+cpu")
    assert bad(tmp_path)["versions"][0] == "wrong"


def test_the_worst_comes_first(job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_STEP_ID")
    monkeypatch.setattr(doctor, "trial", lambda folder: GOOD._replace(links=False))
    levels = [one.level for one in examine(str(tmp_path))]
    assert levels[:2] == [Level.WRONG, Level.RISK]
    assert set(levels[2:]) == {Level.FINE}
