"""A checkpoint folder that somebody copied in from another run: it can be read, and is no part of this run's history."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milepost.errors import NotFoundError
from milepost.folder.attempts import claim
from milepost.folder.lineage import of_run
from milepost.folder.retention import Keep, decide
from milepost.folder.run import RunFolder
from milepost.folder.tags import read_tags, set_tag
from milepost.folder.which import find


@pytest.fixture
def mixed(start_job: Callable[..., Any], tmp_path: Path) -> RunFolder:
    """Steps 1 to 3 of a run and, with a better loss and the same attempt number, step 9 of another."""
    keep = Keep(last=None, best="loss")
    job, other = start_job(keep=keep), start_job(tmp_path / "other", keep=keep)
    for step in (1, 2, 3):
        job.save(step, loss=1 / step)
    other.save(9, loss=0.0)
    job.end()
    shutil.copytree(tmp_path / "other" / "step-00000009", tmp_path / "run" / "step-00000009")
    return job.run  # type: ignore[no-any-return]


def test_it_is_neither_latest_nor_good_nor_best(mixed: RunFolder) -> None:
    assert {which: find(mixed, which).step for which in ("latest", "good", "best", "~1")} == {
        "latest": 3, "good": 3, "best": 3, "~1": 2,
    }  # fmt: skip
    with pytest.raises(NotFoundError):
        find(mixed, "~3")
    assert find(mixed, "step=9").foreign
    assert find(mixed, "step-00000009").foreign


def test_retention_neither_removes_nor_counts_it(mixed: RunFolder) -> None:
    found = decide(mixed.checkpoints(), of_run(mixed), Keep(last=2), read_tags(mixed))
    assert [(one.checkpoint.step, one.keep, one.reason) for one in found] == [
        (1, False, "older than the last 2"),
        (2, True, "among the last 2"),
        (3, True, "newest good"),
        (9, True, "another run wrote it"),
    ]


def test_a_tag_does_not_mean_it(mixed: RunFolder, tmp_path: Path) -> None:
    os.rename(tmp_path / "run" / "step-00000003", tmp_path / "three")
    set_tag(mixed, "mine", mixed.look("step-00000009")._replace(step=3))
    shutil.move(tmp_path / "run" / "step-00000009", tmp_path / "run" / "step-00000003")
    with pytest.raises(NotFoundError):
        find(mixed, "mine")


def test_a_run_that_lost_its_description_is_still_that_run(start_job: Callable[..., Any], tmp_path: Path) -> None:
    job = start_job()
    job.save(1)
    job.save(2)
    job.end()
    (tmp_path / "run" / "milepost.json").unlink()
    again = RunFolder.create(job.run.storage)
    assert again.info.run == job.run.info.run
    assert find(again, "latest").step == 2


def test_checkpoints_of_several_runs_make_no_run(mixed: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "run" / "milepost.json").unlink()
    again = RunFolder.create(mixed.storage)
    assert again.info.run != mixed.info.run
    assert all(one.foreign for one in again.checkpoints())


def test_reaching_its_step_keeps_it_under_another_name(start_job: Callable[..., Any], tmp_path: Path) -> None:
    other = start_job(tmp_path / "other")
    other.save(9)
    job = start_job()
    shutil.copytree(tmp_path / "other" / "step-00000009", tmp_path / "run" / "step-00000009")
    job.save(9)
    assert [(one.folder, one.foreign) for one in job.run.checkpoints()] == [
        ("step-00000009", False),
        ("step-00000009.superseded-1", True),
    ]


def test_so_does_fencing_an_attempt_that_had_just_swapped_it_out(start_job: Callable[..., Any], tmp_path: Path) -> None:
    other = start_job(tmp_path / "other")
    other.save(9)
    job = start_job()
    job.die()
    # As a crash between the exchange of names and the putting away leaves it.
    work = tmp_path / "run" / job.attempt.work / "step-00000009"
    shutil.copytree(tmp_path / "other" / "step-00000009", work)
    claim(job.run.storage).end("closed")
    assert [(one.folder, one.foreign) for one in job.run.checkpoints()] == [("step-00000009.superseded-1", True)]
