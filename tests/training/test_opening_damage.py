"""Checkpoints whose manifest cannot be read belong to no attempt; opening a run must speak of them all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError


def train(run_directory: Path, to: int) -> milepost.Checkpointer:
    with milepost.Checkpointer(run_directory, w=np.zeros(3), keep=milepost.Keep(last=None), progress=False) as run:
        w = run["w"]
        while run.progress.step < to:
            w = w + 1
            run.step(w=w)
            run.save()
    return run


def spoil(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(b"no manifest")


def test_a_newest_one_without_a_readable_manifest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", 3)
    spoil(tmp_path / "run" / "step-00000003")

    with milepost.Checkpointer(tmp_path / "run", w=np.zeros(3), progress=False) as run:
        assert run.resumed_from == "step-00000002"
        assert [folder for folder, _ in run.resume_report.passed_over] == ["step-00000003"]
        assert np.array_equal(run["w"], np.full(3, 2.0))
    assert "passed over step-00000003" in capsys.readouterr().err


def test_an_old_one_is_not_spoken_of(tmp_path: Path) -> None:
    train(tmp_path / "run", 3)
    spoil(tmp_path / "run" / "step-00000001")

    assert train(tmp_path / "run", 3).resume_report.passed_over == ()


def test_a_run_of_nothing_else_does_not_begin_again(tmp_path: Path) -> None:
    train(tmp_path / "run", 1)
    spoil(tmp_path / "run" / "step-00000001")

    with pytest.raises(DamagedError, match="no checkpoint of this run is good"):
        train(tmp_path / "run", 1)
    assert train_from_scratch(tmp_path / "run") == 0


def train_from_scratch(run_directory: Path) -> int:
    with milepost.Checkpointer(run_directory, w=np.zeros(3), resume="never", progress=False) as run:
        return run.progress.step
