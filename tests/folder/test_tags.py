"""Tags: names that a person gave to checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from milepost.errors import DamagedError, NotFoundError, ReferenceSyntaxError
from milepost.folder.run import Listed
from milepost.folder.tags import Tag, pin_name, read_tags, remove_tag, set_tag
from milepost.storage.faults import FaultyStorage, Operation, fail
from milepost.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from harness.driving import Job


def state(value: float) -> dict[str, Any]:
    return {"model": {"w": np.full(3, value)}}


@pytest.fixture
def job(disk: MemoryStorage, open_job: Callable[..., Job]) -> Job:
    return open_job(disk)


def test_a_tag_is_set_moved_and_removed(job: Job) -> None:
    first, second = job.commit(1, state(1)), job.commit(2, state(2))
    set_tag(job.run, "paper", first)
    assert read_tags(job.run) == {"paper": Tag(1, 1)}
    set_tag(job.run, "paper", second)
    set_tag(job.run, "other", second)
    assert read_tags(job.run) == {"paper": Tag(1, 2), "other": Tag(1, 2)}
    remove_tag(job.run, "paper")
    assert read_tags(job.run) == {"other": Tag(1, 2)}


def test_a_tag_follows_its_checkpoint_when_that_is_superseded(
    disk: MemoryStorage, job: Job, open_job: Callable[..., Job]
) -> None:
    from milepost.folder.which import find

    set_tag(job.run, "paper", job.commit(1, state(1)))
    job.end()
    later = open_job(disk, resume="never")
    later.commit(1, state(2))
    assert find(later.run, "paper").folder == "step-00000001.superseded-1"


@pytest.mark.parametrize("name", ["a", "v1.0", "best-so-far", "A_b.c-d", "0", "x" * 64, "Latest", "step"])
def test_names_that_can_be_tags(job: Job, name: str) -> None:
    set_tag(job.run, name, job.commit(1, state(1)))
    assert list(read_tags(job.run)) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "latest",
        "best",
        "good",
        "never",
        "~1",
        "step=1",
        "a b",
        "a/b",
        "../a",
        ".hidden",
        "-a",
        "x" * 65,
        "é",
        "a\n",
        "a@b",
    ],
)
def test_names_that_cannot(job: Job, name: str) -> None:
    saved = job.commit(1, state(1))
    with pytest.raises(ReferenceSyntaxError, match="cannot be the name of a tag") as caught:
        set_tag(job.run, name, saved)
    assert caught.value.found == ascii(name)
    assert read_tags(job.run) == {}


def test_a_tag_is_durable_and_replaced_at_once(disk: MemoryStorage, job: Job) -> None:
    first, second = job.commit(1, state(1)), job.commit(2, state(2))
    set_tag(job.run, "paper", first)
    assert disk.crash(lambda n: 0).list("tags") == ["paper.json"]
    set_tag(job.run, "paper", second)
    remove_tag(job.run, "paper")
    assert disk.crash(lambda n: 0).list("tags") == []


def test_a_damaged_checkpoint_cannot_be_tagged(job: Job) -> None:
    with pytest.raises(DamagedError, match="damaged checkpoint cannot be tagged"):
        set_tag(job.run, "paper", Listed("step-00000001", 1, None, "it has no manifest"))


def test_no_such_tag(job: Job) -> None:
    with pytest.raises(NotFoundError) as caught:
        remove_tag(job.run, "paper")
    assert caught.value.expected == "none"
    set_tag(job.run, "other", job.commit(1, state(1)))
    with pytest.raises(NotFoundError) as caught:
        remove_tag(job.run, "paper")
    assert caught.value.expected == "other"


def test_a_run_without_a_folder_for_tags_has_none_and_gets_one(disk: MemoryStorage, job: Job) -> None:
    disk.remove_tree("tags")
    assert read_tags(job.run) == {}
    set_tag(job.run, "paper", job.commit(1, state(1)))
    assert read_tags(job.run) == {"paper": Tag(1, 1)}


@pytest.mark.parametrize(
    "noise", [b"", b"{", b"[]", b'{"attempt": 1}', b'{"attempt": "1", "step": 1}', b"\xff", b"[" * 9999]
)
def test_a_tag_that_cannot_be_read_is_said(disk: MemoryStorage, job: Job, noise: bytes) -> None:
    disk.write("tags/paper.json", noise)
    with pytest.raises(DamagedError, match="a tag cannot be read") as caught:
        read_tags(job.run)
    assert str(caught.value.where).endswith("tags/paper.json")


def test_while_a_tag_cannot_be_read_nothing_is_removed(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    from milepost.folder.retention import Keep

    job = open_job(disk, Keep(last=1))
    assert job.committer is not None
    saved = [job.commit(step, state(step)) for step in (1, 2)]
    disk.write("tags/paper.json", b"?")
    with pytest.raises(DamagedError):
        job.committer.tidy(saved[-1])
    assert [one.step for one in job.run.checkpoints()] == [1, 2]


def test_other_files_among_the_tags_are_left_alone(disk: MemoryStorage, job: Job) -> None:
    disk.write("tags/README", b"mine")
    disk.write("tags/.tmp-1.json", b"?")
    assert read_tags(job.run) == {}


def test_a_tag_that_goes_while_tags_are_read_is_none(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    def somebody_removes_it(operation: Operation) -> bool:
        if operation == Operation("read", ("tags/paper.json",)):
            disk.remove("tags/paper.json")
        return False

    job = open_job(FaultyStorage(disk, [fail(somebody_removes_it, 0)]))
    saved = job.commit(1, state(1))
    set_tag(job.run, "other", saved)
    set_tag(job.run, "paper", saved)
    assert list(read_tags(job.run)) == ["other"]


def test_the_name_of_a_pin_says_what_is_pinned(job: Job) -> None:
    assert pin_name(job.commit(1200, state(1))) == "pinned-1200-1"
