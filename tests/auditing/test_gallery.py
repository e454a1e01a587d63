"""Every planted fault is found and named, and no script that does it right is accused."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from launcher import Launcher

from milepost.auditing.audit import audit
from milepost.auditing.report import Report, Verdict

GALLERY = Path(__file__).parent / "gallery"
EXPECTED = tomllib.loads((GALLERY / "expected.toml").read_text())
FAULTY = sorted(EXPECTED)
CLEAN = sorted(path.stem for path in (GALLERY / "clean").glob("*.py"))
STEP = 8


def play(
    launcher: Launcher,
    fresh: bool,
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    output: Path,
    seconds: Any,
) -> int:
    return launcher.launch(list(command), dict(env), cwd, output, seconds or 120, fresh=fresh)


def audited(launcher: Launcher, kind: str, name: str, folder: Path, **options: Any) -> Report:
    expected = EXPECTED.get(name, {}) if kind == "faulty" else {}
    launch = partial(play, launcher, expected.get("fresh", False) or name == "set_order")
    command = [sys.executable, str(GALLERY / kind / f"{name}.py"), "run"]
    options = {"at": [expected.get("at", STEP)], "environment": os.environ, **options}
    return audit(command, cwd=folder, copy_cwd=name == "side_file", launch=launch, **options)


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_found_and_named(name: str, launcher: Launcher, tmp_path: Path) -> None:
    expected = EXPECTED[name]
    report = audited(launcher, "faulty", name, tmp_path)
    assert report.verdict is Verdict.NOT_EXACT
    texts = [cause.text for cause in report.causes]
    assert any(words.lower() in text.lower() for words in expected["causes"] for text in texts), texts
    told = [
        *texts,
        *(cause.path for cause in report.causes),
        *(one.path for row in report.rows for one in row.differences),
    ]
    # Whose hashes decide is not seen, only that they do.
    assert name == "set_order" or any(piece in one.lower() for piece in expected["names"] for one in told), told


@pytest.mark.parametrize("name", CLEAN)
def test_a_script_that_does_it_right_is_not_accused(name: str, launcher: Launcher, tmp_path: Path) -> None:
    report = audited(launcher, "clean", name, tmp_path)
    assert report.verdict is Verdict.EXACT, [row for row in report.rows if row.verdict is not Verdict.EXACT]


@pytest.mark.parametrize("name", ["optimizer", "accuracy_meter", "early_stopping", "ema_model"])
def test_at_the_points_it_chooses_by_itself(name: str, launcher: Launcher, tmp_path: Path) -> None:
    report = audited(launcher, "clean", name, tmp_path, at=())
    assert report.verdict is Verdict.EXACT
    assert {"first step", "last step"} <= {part for row in report.rows for part in row.label.split(", ")}
    assert all(row.compared for row in report.rows)
