"""Lineage: which checkpoints an attempt stands on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.manifest import Summary
from milepost.folder import names
from milepost.folder.attempts import Owner, Parent, Record
from milepost.folder.lineage import lineage, newest_attempt, of_run, read_records
from milepost.folder.run import Listed
from milepost.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from harness.driving import Job

Keys = list[tuple[int, int]]


def listed(attempt: int, step: int, *, superseded: bool = False, foreign: bool = False) -> Listed:
    folder = names.superseded(step, attempt) if superseded else names.step_folder(step)
    return Listed(folder, step, Summary("1.0", "r", attempt, step), foreign=foreign)


def record(number: int, parent: tuple[int, int] | None = None, run: str | None = None) -> Record:
    return Record(number, Owner("host", 1), "now", None if parent is None else Parent(*parent, run))


def keys(found: list[Listed]) -> Keys:
    return [(one.summary.attempt, one.step) for one in found if one.summary is not None]


def line(checkpoints: list[Listed], *records: Record, of: int | None = None) -> Keys:
    known = {one.number: one for one in records}
    return keys(lineage(known, checkpoints, of or newest_attempt(known, checkpoints)))


def test_one_attempt_newest_first() -> None:
    assert line([listed(1, 10), listed(1, 30), listed(1, 20)], record(1)) == [(1, 30), (1, 20), (1, 10)]


def test_nothing_yet() -> None:
    assert line([]) == []
    assert line([], record(1)) == []


def test_an_attempt_continues_its_parent_from_where_it_branched_off() -> None:
    checkpoints = [listed(1, 10), listed(1, 20), listed(1, 30), listed(2, 25)]
    assert line(checkpoints, record(1), record(2, (1, 20))) == [(2, 25), (1, 20), (1, 10)]
    assert line(checkpoints, record(1), record(2, (1, 20)), of=1) == [(1, 30), (1, 20), (1, 10)]


def test_an_attempt_that_saved_nothing_stands_on_its_parent() -> None:
    checkpoints = [listed(1, 10), listed(1, 20)]
    records = (record(1), record(2, (1, 20)), record(3, (1, 10)))
    assert line(checkpoints, *records) == [(1, 10)]
    assert line(checkpoints, *records, of=2) == [(1, 20), (1, 10)]


def test_the_parent_may_be_gone_and_what_is_before_it_counts() -> None:
    assert line([listed(1, 10), listed(2, 30)], record(1), record(2, (1, 20))) == [(2, 30), (1, 10)]


def test_three_generations_are_bounded_by_each_branch() -> None:
    checkpoints = [listed(1, step) for step in (1, 2, 3, 4)] + [listed(2, step) for step in (3, 5, 6)] + [listed(3, 4)]
    records = (record(1), record(2, (1, 2)), record(3, (2, 5)))
    assert line(checkpoints, *records) == [(3, 4), (2, 5), (2, 3), (1, 2), (1, 1)]


def test_a_branch_from_a_superseded_checkpoint_stands_on_it() -> None:
    checkpoints = [listed(1, 1), listed(1, 2, superseded=True), listed(2, 2), listed(3, 3)]
    records = (record(1), record(2, (1, 1)), record(3, (1, 2)))
    assert line(checkpoints, *records) == [(3, 3), (1, 2), (1, 1)]


def test_of_two_folders_of_one_checkpoint_the_current_one_comes_first() -> None:
    checkpoints = [listed(1, 2, superseded=True), listed(1, 2)]
    assert [one.current for one in lineage({1: record(1)}, checkpoints, 1)] == [True, False]


def test_a_new_beginning_stands_on_nothing() -> None:
    assert line([listed(1, 10), listed(2, 5)], record(1), record(2)) == [(2, 5)]
    assert line([listed(1, 10)], record(1), record(2)) == []


def test_a_fork_stands_on_nothing_of_this_run() -> None:
    assert line([listed(1, 10), listed(2, 12)], record(1), record(2, (1, 10), run="/runs/other")) == [(2, 12)]


def test_without_records_the_lower_numbers_are_the_parents() -> None:
    checkpoints = [listed(1, 10), listed(1, 40), listed(3, 30), listed(7, 20)]
    assert line(checkpoints) == [(7, 20), (3, 30), (1, 40), (1, 10)]
    assert line(checkpoints, record(3, (1, 10))) == [(7, 20), (3, 30), (1, 10)]


def test_a_parent_that_is_no_earlier_attempt_leads_nowhere() -> None:
    checkpoints = [listed(1, 10), listed(2, 20), listed(3, 30)]
    assert line(checkpoints, record(3, (3, 30))) == [(3, 30)]
    assert line(checkpoints, record(2, (3, 30)), record(3, (2, 20))) == [(3, 30), (2, 20)]


def test_foreign_and_unreadable_folders_are_no_part_of_it() -> None:
    checkpoints = [listed(1, 10), listed(1, 15, foreign=True), Listed("step-00000020", 20, None, "it has no manifest")]
    assert line(checkpoints, record(1)) == [(1, 10)]
    assert newest_attempt({}, [listed(5, 10, foreign=True)]) is None


@given(
    st.dictionaries(st.integers(1, 6), st.one_of(st.none(), st.tuples(st.integers(1, 6), st.integers(0, 9)))),
    st.sets(st.tuples(st.integers(1, 6), st.integers(0, 9))),
)
def test_whatever_the_records_say_it_ends_and_names_each_once(
    parents: dict[int, tuple[int, int] | None], saved: set[tuple[int, int]]
) -> None:
    found = line([listed(*key) for key in saved], *(record(number, parent) for number, parent in parents.items()))
    assert len(found) == len(set(found))
    assert set(found) <= saved
    newest = max([*parents, *(attempt for attempt, _ in saved)], default=None)
    assert {key for key in saved if key[0] == newest} <= set(found)


# -- on disk ------------------------------------------------------------------------------------------------------------------
def state(value: float) -> dict[str, Any]:
    return {"model": {"w": np.full(3, value)}}


def work(open_job: Callable[..., Job], disk: MemoryStorage, resume: str, *steps: int) -> None:
    job = open_job(disk, resume=resume)
    for step in steps:
        job.commit(step, state(10 * job.number + step))
    job.end()


def test_a_run_that_goes_back_and_on(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    work(open_job, disk, "latest", 1, 2, 3)
    work(open_job, disk, "step=1", 2)
    work(open_job, disk, "latest", 3, 4)
    job = open_job(disk)
    assert keys(of_run(job.run)) == [(3, 4), (3, 3), (2, 2), (1, 1)]
    assert keys(of_run(job.run, 1)) == [(1, 3), (1, 2), (1, 1)]
    assert job.state["model"]["w"][0] == 34


def test_a_damaged_record_counts_as_none(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    work(open_job, disk, "latest", 1, 2)
    work(open_job, disk, "step=1", 5)
    for noise in (b"", b"{", b"[]", b"\xff", b'{"number": "x"}', b"[" * 9999):
        disk.write("attempts/2.json", noise, replace=True)
        job = open_job(disk, takeover=True)
        assert set(read_records(job.run)) >= {1}
        assert 2 not in read_records(job.run)
        assert keys(of_run(job.run, 2)) == [(2, 5), (1, 2), (1, 1)]
        job.end()


def test_a_folder_copied_without_its_attempts_is_read_all_the_same(
    disk: MemoryStorage, open_job: Callable[..., Job]
) -> None:
    work(open_job, disk, "latest", 1)
    work(open_job, disk, "latest", 2)
    disk.remove_tree("attempts")
    job = open_job(disk)
    assert job.restored is not None
    assert job.restored.step == 2
    job.commit(3, state(3))
    assert keys(of_run(job.run)) == [(3, 3), (2, 2), (1, 1)], "no number is given twice"


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_the_newest_bad_one_is_passed_over_with_its_reason(
    disk: MemoryStorage, open_job: Callable[..., Job], how: str
) -> None:
    work(open_job, disk, "latest", 1, 2, 3)
    manifest = disk.read("step-00000003/manifest.json")
    if how == "damaged":
        disk.remove("step-00000003/manifest.json")
        disk.write("step-00000003/manifest.json", manifest[:-30] + b"?" + manifest[-29:])
    else:
        disk.remove("step-00000003/model.safetensors")
    job = open_job(disk)
    assert job.restored is not None
    assert job.restored.step == 2
    assert [folder for folder, _ in job.passed_over] == ["step-00000003"]
    job.commit(3, state(7))
    assert keys(of_run(job.run)) == [(2, 3), (1, 2), (1, 1)]
