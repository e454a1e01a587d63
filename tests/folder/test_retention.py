"""Retention: each rule of `Keep`, and what is never removed."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.manifest import Summary, plain_metrics
from milepost.errors import MetricError, RunFenced, ScriptError
from milepost.folder import names
from milepost.folder.lineage import lineage
from milepost.folder.retention import Keep, best_of, components, decide
from milepost.folder.run import BestBy, Listed, RunFolder
from milepost.folder.tags import Tag, set_tag
from milepost.storage.faults import FaultyStorage, fail, on
from milepost.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from harness.driving import Job


def listed(step: int, attempt: int = 1, *, good: bool = True, superseded: bool = False, **metrics: float) -> Listed:
    folder = names.superseded(step, attempt) if superseded else names.step_folder(step)
    return Listed(folder, step, Summary("1.0", "r", attempt, step, metrics=plain_metrics(metrics), good=good))


def foreign(step: int) -> Listed:
    return Listed(names.step_folder(step), step, Summary("1.0", "other", 1, step), foreign=True)


def unreadable(step: int) -> Listed:
    return Listed(names.step_folder(step), step, None, "it has no manifest")


def kept(checkpoints: list[Listed], line: list[Listed], keep: Keep, **tags: Tag) -> dict[str, str]:
    """Folder -> why it stays."""
    return {one.checkpoint.folder: one.reason for one in decide(checkpoints, line, keep, tags) if one.keep}


def steps(checkpoints: list[Listed], keep: Keep, **tags: Tag) -> list[int]:
    """The steps that stay of a single attempt."""
    line = lineage({}, checkpoints, 1)
    return sorted(one.checkpoint.step for one in decide(checkpoints, line, keep, tags) if one.keep)


SIX = [listed(step) for step in (10, 20, 30, 40, 50, 60)]


# -- the rules ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (Keep(last=1), [60]),
        (Keep(last=3), [40, 50, 60]),
        (Keep(), [40, 50, 60]),
        (Keep(last=9), [10, 20, 30, 40, 50, 60]),
        (Keep(last=None), [10, 20, 30, 40, 50, 60]),
        (Keep(last=1, every_steps=20), [20, 40, 60]),
        (Keep(last=2, every_steps=25), [50, 60]),
        (Keep(last=1, every_steps=1), [10, 20, 30, 40, 50, 60]),
    ],
)
def test_the_newest_and_those_at_multiples(keep: Keep, expected: list[int]) -> None:
    assert steps(SIX, keep) == expected


def test_the_best_stays() -> None:
    checkpoints = [listed(step, val_loss=loss, acc=-loss) for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 4.0))]
    assert steps(checkpoints, Keep(last=1, best="val_loss")) == [2, 4]
    assert steps(checkpoints, Keep(last=1, best="acc")) == [2, 4]
    assert steps(checkpoints, Keep(last=1, best=("val_loss", "max"))) == [4]
    assert steps(checkpoints, Keep(last=1, best=("val_loss", "min"))) == [2, 4]


def test_what_is_tagged_stays() -> None:
    assert steps(SIX, Keep(last=1), a=Tag(1, 20), b=Tag(1, 10)) == [10, 20, 60]
    assert steps(SIX, Keep(last=1), other=Tag(2, 20)) == [60], "of another attempt"


def test_the_newest_good_one_stays_behind_any_number_of_bad_ones() -> None:
    checkpoints = [listed(1), listed(2), *(listed(step, good=False) for step in range(3, 9))]
    assert steps(checkpoints, Keep(last=2)) == [2, 7, 8]


def test_without_a_good_one_in_the_lineage_that_of_another_branch_stays() -> None:
    abandoned = [listed(step) for step in (1, 2, 3)]
    anew = [listed(1, attempt=2, good=False)]
    found = kept([*abandoned[1:], *anew, listed(1, superseded=True)], anew, Keep(last=1))
    assert found == {"step-00000001": "among the last 1", "step-00000003": "newest good"}


def test_other_runs_and_what_cannot_be_read_are_left_alone_and_count_for_nothing() -> None:
    checkpoints = [foreign(70), unreadable(80), *SIX, foreign(5), unreadable(6)]
    found = kept(checkpoints, lineage({}, checkpoints, 1), Keep(last=2))
    assert sorted(found) == [
        "step-00000005", "step-00000006", "step-00000050", "step-00000060", "step-00000070", "step-00000080",
    ]  # fmt: skip
    assert found["step-00000070"] == "another run wrote it"
    assert found["step-00000080"] == "cannot be read (it has no manifest): not removed automatically"


def test_abandoned_and_superseded_ones_count_as_oldest() -> None:
    line = [listed(3, attempt=2), listed(2, attempt=2), listed(1)]
    others = [listed(9), listed(8), listed(2, superseded=True)]
    everything = [*line, *others]
    for last in range(1, 7):
        found = kept(everything, line, Keep(last=last))
        assert list(found) == [one.folder for one in everything[:last]]
    reasons = {one.checkpoint.folder: one.reason for one in decide(everything, line, Keep(last=2), {})}
    assert reasons == {
        "step-00000003": "newest good",
        "step-00000002": "among the last 2",
        "step-00000001": "older than the last 2",
        "step-00000009": "of an abandoned branch",
        "step-00000008": "of an abandoned branch",
        "step-00000002.superseded-1": "superseded",
    }


def test_neither_are_they_the_best_nor_at_a_multiple() -> None:
    line = [listed(3, attempt=2, loss=2.0), listed(2, attempt=2, loss=3.0)]
    others = [listed(9, loss=1.0), listed(2, superseded=True, loss=0.0)]
    assert sorted(kept([*line, *others], line, Keep(last=1, best="loss", every_steps=9))) == ["step-00000003"]


def test_a_tag_on_a_superseded_one_keeps_it() -> None:
    line = [listed(2, attempt=2)]
    old = listed(2, superseded=True)
    assert old.folder in kept([*line, old], line, Keep(last=1), mine=Tag(1, 2))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30), st.integers(1, 3), st.sampled_from(["good", "bad", "foreign", "unreadable", "superseded"]),
            st.floats(allow_nan=True, allow_infinity=True),
        ),
        max_size=15,
        unique_by=lambda one: one[0],
    ),
    st.one_of(st.none(), st.integers(1, 4)),
    st.one_of(st.none(), st.integers(1, 5)),
    st.booleans(),
    st.sets(st.integers(0, 30), max_size=3),
)  # fmt: skip
def test_whatever_there_is_what_must_never_go_stays(
    drawn: list[tuple[int, int, str, float]], last: int | None, every: int | None, best: bool, tagged: set[int]
) -> None:
    checkpoints = []
    for step, attempt, kind, loss in drawn:
        match kind:
            case "foreign":
                checkpoints.append(foreign(step))
            case "unreadable":
                checkpoints.append(unreadable(step))
            case _:
                one = listed(step, attempt, good=kind != "bad", superseded=kind == "superseded", loss=loss)
                checkpoints.append(one)
    newest = max((one.summary.attempt for one in checkpoints if one.summary and not one.foreign), default=None)
    line = lineage({}, checkpoints, newest)
    keep = Keep(last=last, every_steps=every, best="loss" if best else None)
    tags = {f"t{step}": Tag(attempt, step) for step, attempt, _, _ in drawn if step in tagged}
    tagged_keys = {(tag.attempt, tag.step) for tag in tags.values()}
    found = kept(checkpoints, line, keep, **tags)
    good = [one for one in line if one.summary and one.summary.good]
    must = [one for one in checkpoints if one.foreign or one.summary is None] + good[:1]
    must += [one for one in checkpoints if one.summary and (one.summary.attempt, one.step) in tagged_keys]
    must += [one for one in line if one.current][: len(checkpoints) if last is None else last]
    if best:
        must += [found_best] if (found_best := best_of(line, BestBy("loss", "min"))) else []
    if every:
        must += [one for one in line if one.current and one.step % every == 0]
    assert {one.folder for one in must} <= found.keys()
    if last is None:
        assert len(found) == len(checkpoints)


# -- the best ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([3.0, 1.0, 2.0], "min", 2),
        ([3.0, 1.0, 2.0], "max", 1),
        ([1.0, 1.0, 1.0], "min", 1),
        ([1.0, 1.0, 1.0], "max", 1),
        ([math.nan, 2.0, math.nan], "min", 2),
        ([math.nan, math.nan, math.nan], "min", None),
        ([math.inf, -math.inf, 0.0], "min", 2),
        ([math.inf, -math.inf, 0.0], "max", 1),
        ([math.inf, math.inf, math.inf], "min", 1),
    ],
)
def test_which_is_best(values: list[float], mode: str, best: int | None) -> None:
    found = best_of([listed(step, m=value) for step, value in enumerate(values, 1)][::-1], BestBy("m", mode))
    assert (found.step if found else None) == best


def test_the_best_is_good_current_and_has_the_metric() -> None:
    by = BestBy("m", "min")
    assert best_of([listed(1, m=1.0, good=False), listed(2, m=2.0)], by) == listed(2, m=2.0)
    assert best_of([listed(1, m=1.0, superseded=True), listed(2, m=2.0)], by) == listed(2, m=2.0)
    assert best_of([listed(1, other=1.0), unreadable(2)], by) is None


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("val_loss", "min"), ("loss", "min"), ("train/loss", "min"), ("top1-error", "min"), ("val-perplexity", "min"),
        ("acc", "max"), ("val_accuracy", "max"), ("eval/f1", "max"), ("map", "max"), ("f1", "max"), ("recall@5", "max"),
        ("VAL_LOSS", "min"),
    ],
)  # fmt: skip
def test_the_direction_of_well_known_metrics(metric: str, mode: str) -> None:
    assert Keep(best=metric).best_by == BestBy(metric, mode)


@pytest.mark.parametrize("metric", ["quality", "lossless", "x"])
def test_the_direction_of_others_must_be_said(metric: str) -> None:
    with pytest.raises(MetricError, match="smaller or a larger") as caught:
        Keep(best=metric)
    assert metric in str(caught.value.hint)
    assert Keep(best=(metric, "max")).best_by == BestBy(metric, "max")


@pytest.mark.parametrize("best", [("loss", "down"), ("loss",), ("a", "b", "min"), 3, (3, "min"), []])
def test_what_is_no_metric_and_direction_is_refused(best: Any) -> None:
    with pytest.raises(MetricError) as caught:
        Keep(best=best)
    assert "(metric, 'min' | 'max')" in str(caught.value.expected)
    assert caught.value.found == repr(best)


def test_how_many_are_independent_is_a_number() -> None:
    with pytest.raises(ScriptError, match="independent"):
        Keep(independent=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["last", "every_steps", "independent"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_numbers_below_one_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ScriptError, match=rf"Keep\({field}=\.\.\.\) cannot be that") as caught:
        Keep(**{field: value})
    assert caught.value.found == repr(value)


# -- on disk ------------------------------------------------------------------------------------------------------------------
def state(step: int) -> dict[str, Any]:
    return {"model": {"body": np.zeros(3000, np.float32), "head": np.full(4, step)}}


def there(run: RunFolder) -> list[str]:
    return [one.folder for one in run.checkpoints()]


def test_tidying_removes_all_that_need_not_stay(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk, Keep(last=2, best="loss"))
    for step, loss in ((1, 5.0), (2, 1.0), (3, 4.0), (4, 3.0), (5, 2.0)):
        job.save(step, state(step), loss=loss)
    assert there(job.run) == ["step-00000002", "step-00000004", "step-00000005"]
    assert disk.read_link("latest") == "step-00000005"
    assert disk.read_link("best") == "step-00000002"
    assert disk.list("attempts/1.work") == []


def test_tidying_says_what_it_removed(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk, Keep(last=1))
    assert job.committer is not None
    saved = [job.commit(step, state(step)) for step in (1, 2, 3)]
    assert job.committer.tidy(saved[-1]) == ["step-00000001", "step-00000002"]
    assert job.committer.tidy(saved[-1]) == []


def test_a_tag_that_was_set_in_between_counts(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk, Keep(last=1))
    set_tag(job.run, "paper", job.save(1, state(1)))
    for step in (2, 3):
        job.save(step, state(step))
    assert there(job.run) == ["step-00000001", "step-00000003"]


def test_a_fenced_job_removes_nothing(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    stale = open_job(disk, Keep(last=1))
    saved = [stale.commit(step, state(step)) for step in (1, 2)]
    open_job(disk, takeover=True)
    assert stale.committer is not None
    with pytest.raises(RunFenced):
        stale.committer.tidy(saved[-1])
    assert there(stale.run) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_without_symbolic_links_there_is_no_latest_and_all_else_works(
    disk: MemoryStorage, open_job: Callable[..., Job], code: int
) -> None:
    job = open_job(FaultyStorage(disk, [fail(on("symlink"), code)]), Keep(last=1))
    for step in (1, 2):
        job.save(step, state(step))
    assert there(job.run) == ["step-00000002"]
    assert "latest" not in disk.list()


def test_a_file_of_somebody_else_called_latest_is_left_alone(disk: MemoryStorage, open_job: Callable[..., Job]) -> None:
    job = open_job(disk, Keep(last=1))
    disk.write("latest", b"my notes")
    for step in (1, 2):
        job.save(step, state(step))
    assert there(job.run) == ["step-00000002"]
    assert disk.read("latest") == b"my notes"


def test_components_are_what_shares_a_file_directly_or_through_others(
    disk: MemoryStorage, open_job: Callable[..., Job]
) -> None:
    job = open_job(disk)
    disk.make_folder("empty")
    for folder, files in {"a": "12", "b": "23", "c": "4", "d": "34", "e": "5"}.items():
        disk.make_folder(folder)
        for number in files:
            if f"{number}.safetensors" not in disk.list("empty"):
                disk.write(f"empty/{number}.safetensors", number.encode())
            disk.link(f"empty/{number}.safetensors", f"{folder}/{number}.safetensors")
    found = components(job.run, ["a", "b", "c", "e", "gone"])
    assert sorted(map(sorted, found)) == [["a", "b"], ["c"], ["e"], ["gone"]]
    assert sorted(map(sorted, components(job.run, ["a", "b", "c", "d", "e"]))) == [["a", "b", "c", "d"], ["e"]]
