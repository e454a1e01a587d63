"""300 real SIGKILLs at random instants (`harness.killing`): nothing acknowledged is lost, nothing half is seen or left over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KILLS = 300


def killed(folder: Path, kills: int, *mistake: str) -> dict[str, Any]:
    """Run the harness as a program of its own."""
    command = [sys.executable, "-m", "harness.killing", str(folder), str(kills), "1", *mistake]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_job_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    found = killed(tmp_path / "run", KILLS)
    assert found["problems"] == []
    assert found["kills"] == KILLS
    assert found["acknowledged"] > KILLS / 3, "too little was saved for the kills to mean much"
    assert set(found["phases"]) >= {"starting", "writing", "committing", "retention"}, found["phases"]


@pytest.mark.parametrize(
    "mistake", ["RenameBeforeWrite", "ManifestBeforeFiles", "RemovalBeforeCommit", "remove in place"]
)
def test_the_kills_notice(mistake: str, tmp_path: Path) -> None:
    assert killed(tmp_path / "run", KILLS, mistake)["problems"]
