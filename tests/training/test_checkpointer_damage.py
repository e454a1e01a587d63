"""Checkpoints that were damaged on disk, or that a newer milepost wrote: never taken for good, never lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_jobs import (
    facts,
    folder_fixture,  # noqa: F401
    one_thread,  # noqa: F401
)

import milepost
from milepost.errors import DamagedError, FormatError, MilepostError

STEPS = 3


@pytest.fixture
def run(folder: Path) -> Path:
    """A run with three checkpoints of two items, which share no file."""
    items = made()
    options: dict[str, Any] = {"keep": milepost.Keep(last=None, independent=9), "progress": False}
    with milepost.Checkpointer(folder / "run", **items, **options) as run:
        for _ in range(STEPS):
            with torch.no_grad():
                items["model"].weight += 1
            run.step(values=run["values"] + 1)
            run.save()
            run.wait()
    return folder / "run"


def made() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"model": torch.nn.Linear(50, 40), "values": np.zeros(1000)}


def resume(directory: Path, items: dict[str, Any] | None = None, **options: Any) -> milepost.Checkpointer:
    with milepost.Checkpointer(directory, **(items or made()), progress=False, **options) as run:
        return run


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))


def flip(at: float) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        place = min(int(len(data) * at), len(data) - 1)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit of a tensor": lambda one: edit(one / "model.safetensors", flip(0.9)),
    "the last bit": lambda one: edit(one / "values.safetensors", flip(1.0)),
    "a bit of a header": lambda one: edit(one / "model.safetensors", flip(0.001)),
    "cut short": lambda one: edit(one / "model.safetensors", lambda data: data[:-1]),
    "grown": lambda one: edit(one / "model.safetensors", lambda data: data + b"\0"),
    "empty": lambda one: edit(one / "values.safetensors", lambda data: b""),
    "zeros": lambda one: edit(one / "values.safetensors", lambda data: bytes(len(data))),
    "a file is gone": lambda one: (one / "state.safetensors").unlink(),
    "the manifest is gone": lambda one: (one / "manifest.json").unlink(),
    "the manifest is cut short": lambda one: edit(one / "manifest.json", lambda data: data[: len(data) // 2]),
    "a bit of the manifest": lambda one: edit(one / "manifest.json", flip(0.5)),
    "the manifest is another's": lambda one: edit(one / "manifest.json", lambda data: b"{}\n"),
    "it is a file": lambda one: (shutil.rmtree(one), one.write_text("not a folder"))[0],  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_is_passed_over_and_said(damage: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGE[damage](run / "step-00000003")
    resumed = resume(run)
    assert resumed.resumed_from == "step-00000002"
    assert np.array_equal(resumed["values"], np.full(1000, 2.0))
    ((folder, reason),) = resumed.resume_report.passed_over
    assert folder == "step-00000003"
    assert reason
    lines = [line for line in capsys.readouterr().err.splitlines() if "passed over" in line]
    assert len(lines) == 1
    assert "step-00000003" in lines[0]
    assert "step 2" in lines[0]


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_that_was_asked_for_by_name_is_refused(damage: str, run: Path) -> None:
    DAMAGE[damage](run / "step-00000002")
    items = made()
    before = facts(items)
    with pytest.raises(MilepostError) as caught:
        resume(run, items, resume="step=2")
    assert caught.value.kind in ("damaged", "format", "storage", "not-found")
    assert "step-00000002" in str(caught.value)
    assert facts(items) == before
    assert resume(run).resumed_from == "step-00000003"


def test_all_damaged(run: Path) -> None:
    for number, damage in enumerate(("cut short", "a bit of a tensor", "the manifest is gone"), 1):
        DAMAGE[damage](run / f"step-{number:08}")
    items = made()
    before = facts(items)
    with pytest.raises(DamagedError, match="no checkpoint of this run is good") as caught:
        resume(run, items)
    assert all(f"step-{number:08}" in caught.value.message for number in (1, 2, 3))
    assert "resume='never'" in (caught.value.hint or "")
    assert facts(items) == before
    with pytest.raises(DamagedError):
        resume(run)  # still: nothing was begun over what may yet be saved
    fresh = resume(run, resume="never")
    assert fresh.resumed_from is None


def test_two_damaged(run: Path) -> None:
    DAMAGE["cut short"](run / "step-00000003")
    DAMAGE["a bit of a tensor"](run / "step-00000002")
    resumed = resume(run)
    assert resumed.resumed_from == "step-00000001"
    assert [folder for folder, _ in resumed.resume_report.passed_over] == ["step-00000003", "step-00000002"]


def test_a_damaged_one_is_not_linked_to_nor_removed_by_its_successor(run: Path) -> None:
    DAMAGE["a bit of a tensor"](run / "step-00000003")
    items = made()
    with milepost.Checkpointer(run, **items, keep=milepost.Keep(last=None), progress=False) as again:
        with torch.no_grad():
            items["model"].weight += 1
        again.step(values=again["values"] + 1)
    assert np.array_equal(milepost.open(run / "step-00000003")["values"], np.full(1000, 3.0)), "made again, and good"
    superseded = run / "step-00000003.superseded-1"
    assert superseded.is_dir(), "a person may still want what is left of it"


def newer(data: bytes) -> bytes:
    head, _, rest = data.partition(b"\n")
    return head.replace(b'"format":"1.1"', b'"format":"2.0"') + b"\n" + rest


def test_what_a_newer_milepost_wrote_is_not_passed_over(run: Path) -> None:
    edit(run / "step-00000003" / "manifest.json", newer)
    items = made()
    before = facts(items)
    with pytest.raises(FormatError) as caught:
        resume(run, items)
    assert caught.value.found == "format 2.0"
    assert "update milepost" in (caught.value.hint or "")
    assert "step-00000003" in (caught.value.where or "")
    assert facts(items) == before
    assert resume(run, resume="step=2").resumed_from == "step-00000002", "unless one is named"


def test_a_run_of_a_newer_milepost_is_left_alone(run: Path) -> None:
    edit(run / "milepost.json", lambda data: data.replace(b'"format": "1.1"', b'"format": "2.0"'))
    names = sorted(os.listdir(run))
    with pytest.raises(FormatError) as caught:
        resume(run)
    assert caught.value.found == "format 2.0"
    assert sorted(os.listdir(run)) == names
    assert len(os.listdir(run / "attempts")) == len(
        [one for one in os.listdir(run / "attempts") if one.startswith("1.")]
    )


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"format": "1.0"}'])
def test_a_description_of_the_run_that_cannot_be_read(content: bytes, run: Path) -> None:
    edit(run / "milepost.json", lambda data: content)
    with pytest.raises(FormatError) as caught:
        resume(run)
    assert "milepost.json" in (caught.value.where or "")


def test_records_of_attempts_that_cannot_be_read(run: Path) -> None:
    edit(run / "attempts" / "1.json", lambda data: data[:20])
    assert resume(run).resumed_from == "step-00000003"


def test_a_folder_that_was_copied_is_a_checkpoint(run: Path) -> None:
    away = run.parent / "away"
    shutil.copytree(run / "step-00000002", away / "step-00000002")
    shutil.rmtree(run)
    source = milepost.open(away / "step-00000002")
    assert np.array_equal(source["values"], np.full(1000, 2.0))
    assert json.loads((away / "step-00000002" / "manifest.json").read_text())["summary"]["step"] == 2


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_a_folder_that_was_removed_leaves_the_others_whole(gone: int, run: Path) -> None:
    shutil.rmtree(run / f"step-{gone:08}")
    for number in {1, 2, 3} - {gone}:
        assert np.array_equal(milepost.open(run / f"step-{number:08}")["values"], np.full(1000, float(number)))
    assert resume(run).resumed_from == f"step-{2 if gone == 3 else 3:08}"
