from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milepost.errors import DamagedError
from milepost.folder import attempts
from milepost.folder.run import RunFolder
from milepost.folder.tags import set_tag
from milepost.ops.listing import disk_bytes, list_run

Make = Callable[..., RunFolder]


def test_a_row_says_where_its_checkpoint_stands(branched: RunFolder) -> None:
    by_folder = {one.folder: one for one in branched.checkpoints()}
    set_tag(branched, "paper", by_folder["step-00000100"])
    set_tag(branched, "a", by_folder["step-00000100"])
    set_tag(branched, "old", by_folder["step-00000300.superseded-1"])
    listing = list_run(branched)
    rows = {row.listed.folder: (row.branch, row.latest, row.best, row.tags) for row in listing.rows}
    assert rows == {
        "step-00000100": ("current", False, False, ("a", "paper")),
        "step-00000200": ("current", False, False, ()),
        "step-00000300.superseded-1": ("superseded", False, False, ("old",)),
        "step-00000300": ("current", False, True, ()),
        "step-00000350": ("current", True, False, ()),
        "step-00000400": ("abandoned", False, False, ()),
    }
    assert [row.listed.step for row in listing.rows] == [100, 200, 300, 300, 350, 400]
    assert listing.step == 350


def test_what_cannot_be_read_is_listed_with_the_reason(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "run" / "step-00000200" / "manifest.json").unlink()
    (tmp_path / "run" / "step-00000250").mkdir()
    manifest = tmp_path / "run" / "step-00000100" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(b'{"summary": {"form')
    rows = {row.listed.step: row for row in list_run(run).rows}
    assert {step: row.branch for step, row in rows.items()} == {
        100: "unreadable", 200: "unreadable", 250: "unreadable", 300: "current",
    }  # fmt: skip
    assert rows[200].listed.problem == "it has no manifest"
    assert "cannot be read" in (rows[100].listed.problem or "")


@pytest.mark.parametrize("value", ['"oops"', '"NaN"', "true", "[]"])
def test_a_metric_that_is_no_number_makes_a_row_unreadable(make_run: Make, tmp_path: Path, value: str) -> None:
    run = make_run(steps=(1,))
    manifest = tmp_path / "run" / "step-00000001" / "manifest.json"
    manifest.chmod(0o644)
    text = manifest.read_text()
    assert '"loss":1.0' in text
    manifest.write_text(text.replace('"loss":1.0', f'"loss":{value}'))
    (row,) = list_run(run).rows
    assert row.branch == "unreadable"


def test_life(start_job: Callable[..., Any]) -> None:
    job = start_job()
    life = list_run(job.run).life
    assert (life.attempts, life.state) == (1, "running")
    assert life.owner is not None
    assert life.owner.pid == os.getpid()
    assert life.heartbeat is not None
    job.die()
    assert list_run(job.run).life[:3] == (1, "died", None)
    job = start_job()
    job.end("stopped")
    assert list_run(job.run).life[:3] == (2, "stopped", None)
    attempts.claim(job.run.storage).end("failed")  # as where the state does not fit: it never began
    assert list_run(job.run).life[:3] == (3, "stopped", None)


def test_the_heartbeat_tells_of_another_machine(start_job: Callable[..., Any], tmp_path: Path) -> None:
    job = start_job()
    job.die()
    lock = tmp_path / "run" / "attempts" / "1.lock"
    owner = json.loads(lock.read_bytes()) | {"host": "elsewhere"}
    lock.write_text(json.dumps(owner))
    assert list_run(job.run).life.state == "running"
    long_ago = lock.stat().st_mtime - attempts.DEAD_AFTER_SECONDS - 5
    os.utime(lock, (long_ago, long_ago))
    assert list_run(job.run).life.state == "died"


def test_a_run_that_was_never_started_and_one_copied_without_its_attempts(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    shutil.rmtree(tmp_path / "run" / "attempts")
    listing = list_run(run)
    assert listing.life.state == "new"
    assert listing.step == 300


def test_listing_writes_nothing(start_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = start_job()
    job.save(1)
    for name in ("write", "append", "touch", "rename", "link", "symlink", "remove", "remove_tree", "make_folder"):
        monkeypatch.setattr(type(job.run.storage), name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
    assert list_run(job.run).life.state == "running"
    monkeypatch.undo()


def test_a_damaged_tag_hides_no_checkpoint(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "run" / "tags" / "bad.json").write_text("{")
    listing = list_run(run)
    assert len(listing.rows) == 3
    assert [type(problem) for problem in listing.problems] == [DamagedError]


def test_a_shared_file_takes_its_bytes_once(start_job: Callable[..., Any], tmp_path: Path) -> None:
    job = start_job()
    state = {"model": {"w": np.ones(10_000, np.float32)}}
    first, second = job.save(1, state), job.save(2, state)
    file = "model.safetensors"
    one = tmp_path / "run" / first.folder
    assert (one / file).samefile(tmp_path / "run" / second.folder / file)
    manifests = sum((tmp_path / "run" / one.folder / "manifest.json").stat().st_size for one in (first, second))
    assert disk_bytes(job.run, [first.folder, second.folder]) == (one / file).stat().st_size + manifests
    assert disk_bytes(job.run, [first.folder, "step-00000009"]) < disk_bytes(job.run, [first.folder, second.folder])


def test_a_checkpoint_of_another_run_is_called_foreign(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    make_run(tmp_path / "other", steps=(400,))
    shutil.copytree(tmp_path / "other" / "step-00000400", tmp_path / "run" / "step-00000400")
    set_tag(run, "mine", run.look("step-00000300"))
    rows = {row.listed.step: (row.branch, row.latest, row.tags) for row in list_run(run).rows}
    assert rows[300] == ("current", True, ("mine",))
    assert rows[400] == ("foreign", False, ())
