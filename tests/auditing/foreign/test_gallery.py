"""Scripts without milepost: every planted fault is found and named, and no script that saves all it needs is accused."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from launcher import Launcher

from milepost.auditing.audit import audit
from milepost.auditing.report import Report, Verdict

GALLERY = Path(__file__).parent / "gallery"
EXPECTED = tomllib.loads((GALLERY / "expected.toml").read_text())
FAULTY = sorted(path.stem for path in (GALLERY / "faulty").glob("*.py"))
CLEAN = sorted(path.stem for path in (GALLERY / "clean").glob("*.py"))


def audited(launcher: Launcher, script: Path, folder: Path) -> Report:
    def play(command: Sequence[str], env: Mapping[str, str], cwd: Path, output: Path, seconds: float | None) -> int:
        return launcher.launch(command, env, cwd, output, seconds)

    text = script.read_text()
    flag = " --resume {checkpoint}" if "--resume" in text else " {checkpoint}" if "sys.argv[1]" in text else ""
    command = [sys.executable, str(script)]
    resume = " ".join(command) + flag
    at = [EXPECTED.get(script.stem, {}).get("at", 8)]
    return audit(command, saver="torch", resume_command=resume, cwd=folder, environment=os.environ, at=at, launch=play)


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_found_and_named(name: str, launcher: Launcher, tmp_path: Path) -> None:
    report = audited(launcher, GALLERY / "faulty" / f"{name}.py", tmp_path)
    assert report.verdict is Verdict.NOT_EXACT
    texts = [cause.text for cause in report.causes]
    for words in EXPECTED[name]["causes"]:
        assert any(words in text for text in texts), texts
    assert not any(words in text for words in EXPECTED[name].get("not", []) for text in texts), texts
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", CLEAN)
def test_a_script_that_saves_all_it_needs_is_not_accused(name: str, launcher: Launcher, tmp_path: Path) -> None:
    report = audited(launcher, GALLERY / "clean" / f"{name}.py", tmp_path)
    assert report.verdict is Verdict.EXACT, str(report)
    assert all(row.compared > 3 for row in report.rows)
    assert list(tmp_path.iterdir()) == []


def test_how_much_batches_of_workers_differ(launcher: Launcher, tmp_path: Path) -> None:
    report = audited(launcher, GALLERY / "faulty" / "random.py", tmp_path)
    labels = next(one for row in report.rows for one in row.differences if one.path == "batch/1")
    assert (labels.how_much or "").startswith("max |difference| 1.000e+00")
