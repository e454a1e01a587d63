"""WHICH checkpoint of a run is meant, in every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from milepost.errors import MetricError, NotFoundError
from milepost.folder.retention import Keep
from milepost.folder.run import RunFolder
from milepost.folder.tags import set_tag
from milepost.folder.which import candidates, find
from milepost.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from harness.driving import Job

ALL = Keep(last=None, best="loss")


def state(value: float) -> dict[str, Any]:
    return {"model": {"w": np.full(3, value, np.float32)}}


@pytest.fixture
def run(disk: MemoryStorage, open_job: Callable[..., Job]) -> RunFolder:
    """Attempt 1 saved 1 to 5, 4 with the best loss; attempt 2 went back to 2 and saved 3 and, with a NaN, 6."""
    first = open_job(disk, ALL)
    for step, loss in ((1, 5.0), (2, 3.0), (3, 4.0), (4, 1.0), (5, 6.0)):
        first.commit(step, state(step), loss=loss)
    first.end()
    second = open_job(disk, ALL, resume="step=2")
    second.commit(3, state(30), loss=2.0)
    second.commit(6, state(np.nan), loss=0.5)
    set_tag(second.run, "paper", second.run.look("step-00000005"))
    set_tag(second.run, "old", second.run.look("step-00000003.superseded-1"))
    second.end()
    return second.run


@pytest.mark.parametrize(
    ("which", "folders"),
    [
        ("latest", ["step-00000006", "step-00000003", "step-00000002", "step-00000001"]),
        ("good", ["step-00000003", "step-00000002", "step-00000001"]),
        ("best", ["step-00000003"]),
        ("~0", ["step-00000006"]),
        ("~1", ["step-00000003"]),
        ("~3", ["step-00000001"]),
        ("step=2", ["step-00000002"]),
        ("step=3", ["step-00000003"]),
        ("step=5", ["step-00000005"]),
        ("step=00000000000000004", ["step-00000004"]),
        ("paper", ["step-00000005"]),
        ("old", ["step-00000003.superseded-1"]),
        ("step-00000004", ["step-00000004"]),
        ("step-00000003.superseded-1", ["step-00000003.superseded-1"]),
    ],
)
def test_every_form(run: RunFolder, which: str, folders: list[str]) -> None:
    assert [one.folder for one in candidates(run, which)] == folders
    assert find(run, which).folder == folders[0]


def test_latest_is_what_is_meant_if_nothing_is_said(run: RunFolder) -> None:
    assert find(run) == find(run, "latest")


def test_a_step_outside_of_the_lineage_is_the_current_one_then_the_newest(
    disk: MemoryStorage, open_job: Callable[..., Job]
) -> None:
    for number in (1, 2, 3):
        job = open_job(disk, resume="never")
        job.commit(7, state(number))
        job.end()
    newest = open_job(disk, resume="never")
    newest.commit(1, state(4))
    assert find(newest.run, "step=7").folder == "step-00000007"
    disk.remove_tree("step-00000007")
    assert find(newest.run, "step=7").folder == "step-00000007.superseded-2"


@pytest.mark.parametrize("which", ["~4", "~99", "step=9", "step=0", "step-00000009", "step-00000001.superseded-1"])
def test_what_is_not_there_is_said_with_what_is(run: RunFolder, which: str) -> None:
    with pytest.raises(NotFoundError, match="there is no checkpoint") as caught:
        find(run, which)
    assert caught.value.where == run.where
    assert caught.value.found == "steps 1, 2, 3, 4, 5, 6"


@pytest.mark.parametrize(
    ("which", "hint"),
    [
        ("papr", "did you mean 'paper'?"),
        ("lates", "did you mean 'latest'?"),
        ("bst", "did you mean 'best'?"),
        ("zzz", None),
        ("", None),
        ("step=", None),
        ("step=x", None),
        ("step=-1", None),
        ("~", None),
        ("~-1", None),
        ("latest~1", "did you mean 'latest'?"),
        ("step=" + "9" * 5000, None),
        ("~" + "9" * 5000, None),
        ("../../etc", None),
    ],
)
def test_what_cannot_be_understood_is_said_with_what_can(run: RunFolder, which: str, hint: str | None) -> None:
    with pytest.raises(NotFoundError) as caught:
        find(run, which)
    assert caught.value.expected == "latest, best, good, step=N, ~N, or a tag: old, paper"
    assert caught.value.hint == hint


def test_in_a_run_without_checkpoints(disk: MemoryStorage) -> None:
    run = RunFolder.create(disk)
    for which in ("latest", "good", "~0", "step=1", "step-00000001"):
        with pytest.raises(NotFoundError) as caught:
            find(run, which)
        assert caught.value.found == "no checkpoint yet"


def test_best_where_nobody_said_by_what(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk)
    job.commit(1, state(1), loss=1.0)
    with pytest.raises(MetricError, match="does not say which metric") as caught:
        find(job.run, "best")
    assert caught.value.hint == "say @best=METRIC, or train with keep=Keep(best=METRIC)"


def test_best_by_a_metric_that_is_said(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk, ALL)
    for step, size in ((1, 3.0), (2, 5.0), (3, 4.0)):
        job.commit(step, state(step), size=size, val_error=size)
    found = {which: find(job.run, which).step for which in ("best=val_error", "best=size:max", "best=size:min")}
    assert found == {"best=val_error": 1, "best=size:max": 2, "best=size:min": 1}
    with pytest.raises(MetricError, match="smaller or a larger 'size'") as caught:
        find(job.run, "best=size")
    assert caught.value.hint == "best=size:min or best=size:max"
    with pytest.raises(NotFoundError, match="no good checkpoint has a metric 'loss'"):
        find(job.run, "best=loss")


def test_best_where_the_metric_never_came(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk, ALL)
    job.commit(1, state(1))
    with pytest.raises(NotFoundError, match="no good checkpoint has a metric 'loss'"):
        find(job.run, "best")


def test_a_tag_of_what_was_removed_names_nothing(run: RunFolder) -> None:
    run.storage.remove_tree("step-00000005")
    with pytest.raises(NotFoundError, match="there is no checkpoint paper"):
        find(run, "paper")


def test_a_tag_does_not_mean_what_another_attempt_saved_at_the_step(run: RunFolder) -> None:
    run.storage.remove_tree("step-00000003.superseded-1")
    with pytest.raises(NotFoundError):
        find(run, "old")


def test_a_step_whose_folder_cannot_be_read_is_named_all_the_same(run: RunFolder) -> None:
    run.storage.remove("step-00000005/manifest.json")
    found = find(run, "step=5")
    assert (found.folder, found.problem) == ("step-00000005", "it has no manifest")
