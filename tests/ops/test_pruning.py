from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milepost.errors import DamagedError
from milepost.folder.attempts import Parent
from milepost.folder.retention import Keep
from milepost.folder.run import RunFolder
from milepost.folder.tags import pin_name, set_tag
from milepost.folder.verify import verify_fully
from milepost.ops.pruning import carry_out, plan
from milepost.ops.refs import open_checkpoint
from milepost.storage.local import LocalStorage

Make = Callable[..., RunFolder]


def folders(run: RunFolder) -> list[str]:
    return [one.folder for one in run.checkpoints()]


def prune(run: RunFolder, keep: Keep) -> list[str]:
    removed: list[str] = []
    assert carry_out(run, plan(run, keep).doomed, lambda one: removed.append(one.folder)) == []
    return removed


def test_what_goes_and_why(branched: RunFolder) -> None:
    reasons = {one.checkpoint.folder: (one.keep, one.reason) for one in plan(branched, Keep(last=1)).decisions}
    assert reasons == {
        "step-00000100": (False, "older than the last 1"),
        "step-00000200": (False, "older than the last 1"),
        "step-00000300.superseded-1": (False, "superseded"),
        "step-00000300": (True, "newest good"),
        "step-00000350": (True, "among the last 1"),
        "step-00000400": (False, "of an abandoned branch"),
    }
    assert len(prune(branched, Keep(last=1))) == 4
    assert folders(branched) == ["step-00000300", "step-00000350"]


def test_tagged_pinned_foreign_and_unreadable_ones_stay(make_run: Make, tmp_path: Path) -> None:
    run = make_run(steps=(1, 2, 3, 4, 5))
    set_tag(run, "paper", run.look("step-00000001"))
    set_tag(run, pin_name(run.look("step-00000002")), run.look("step-00000002"))
    (tmp_path / "run" / "step-00000003" / "manifest.json").unlink()
    other = make_run(tmp_path / "other", steps=(9,))
    os.rename(tmp_path / "other" / "step-00000009", tmp_path / "run" / "step-00000009")
    assert folders(other) == []
    assert prune(run, Keep(last=1)) == ["step-00000004"]
    assert folders(run) == [f"step-{step:08d}" for step in (1, 2, 3, 5, 9)]


def test_with_an_unreadable_tag_nothing_is_judged(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "run" / "tags" / "bad.json").write_text("{")
    with pytest.raises(DamagedError):
        plan(run, Keep(last=1))


def test_what_is_left_keeps_the_bytes_it_shared(start_job: Callable[..., Any], tmp_path: Path) -> None:
    job = start_job()
    for step in (1, 2, 3):
        job.save(step, {"model": {"frozen": _noise(0)}, "optimizer": {"momentum": _noise(step)}})
    job.end()
    run_path = tmp_path / "run"
    shared = run_path / "step-00000003" / "model.safetensors"
    assert shared.stat().st_nlink == 3
    found = plan(job.run, Keep(last=1))
    before = _disk_use(run_path)
    carry_out(job.run, found.doomed, lambda _: None)
    assert before - _disk_use(run_path) == found.freed
    assert shared.stat().st_nlink == 1
    assert [finding.problem for finding in verify_fully(open_checkpoint(run_path))] == [None, None]


def test_a_job_that_shares_with_what_was_pruned_saves_on(start_job: Callable[..., Any]) -> None:
    job = start_job()
    job.save(1)
    job.save(2)
    assert prune(job.run, Keep(last=1)) == ["step-00000001"]
    carry_out(job.run, [job.run.look("step-00000002")], lambda _: None)  # even the one that the next save would link to
    job.save(3)
    assert folders(job.run) == ["step-00000003"]
    assert [finding.problem for finding in verify_fully(open_checkpoint(job.run.where))] == [None]


def test_what_a_job_replaced_since_is_left_alone(start_job: Callable[..., Any]) -> None:
    first = start_job()
    for step in (100, 200, 300):
        first.save(step)
    first.die()
    second = start_job(parent=Parent(1, 100))
    doomed = [one.checkpoint for one in plan(second.run, Keep(last=1)).decisions if one.checkpoint.step == 300]
    second.save(300)  # the folder that was judged is another now
    left = carry_out(second.run, doomed, lambda _: pytest.fail("removed what it had not judged"))
    assert left == doomed
    assert second.run.look("step-00000300").summary.attempt == 2  # type: ignore[union-attr]


def test_even_in_the_instant_of_removal(start_job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = start_job()
    for step in (100, 300):
        first.save(step)
    first.die()
    second = start_job(parent=Parent(1, 100))
    judged = second.run.look("step-00000300")
    real = LocalStorage.rename

    def rename(storage: LocalStorage, source: str, target: str) -> None:
        if target.startswith(".trash-"):
            monkeypatch.undo()
            second.save(300)
        real(storage, source, target)

    monkeypatch.setattr(LocalStorage, "rename", rename)
    assert carry_out(second.run, [judged], lambda _: pytest.fail("removed what it had not judged")) == [judged]
    assert second.run.look("step-00000300").summary.attempt == 2  # type: ignore[union-attr]
    assert [name for name in second.run.storage.list() if name.startswith(".trash")] == []


def test_what_is_gone_already_is_fine(make_run: Make) -> None:
    run = make_run()
    doomed = plan(run, Keep(last=1)).doomed
    carry_out(run, doomed, lambda _: None)
    assert carry_out(run, doomed, lambda one: pytest.fail(f"removed {one.folder} twice")) == []


def test_leftovers_of_a_killed_prune_are_cleared_and_nothing_else(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    os.rename(tmp_path / "run" / "step-00000100", tmp_path / "run" / ".trash-0123abcd-step-00000100")
    (tmp_path / "run" / ".trash-mine").mkdir()
    carry_out(run, [], lambda _: None)
    assert [name for name in os.listdir(tmp_path / "run") if name.startswith(".trash")] == [".trash-mine"]


def _noise(seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).standard_normal(5000)


def _disk_use(folder: Path) -> int:
    files = {path.stat().st_ino: path.stat().st_size for path in folder.glob("step-*/*")}
    return sum(files.values())
