"""300 takeovers of a job that commits just then (`harness.racing`): what it saves is listed by the newcomer, or never seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RACES = 300
SHARED_MEMORY = "/dev/shm"


@pytest.fixture
def fast_folder(tmp_path: Path) -> Iterator[str]:
    """Where a sync costs nothing, if there is such a place: more of the time is then spent in what races."""
    fast = os.path.isdir(SHARED_MEMORY) and os.access(SHARED_MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if fast else tmp_path) as folder:
        yield folder


def raced(folder: str, races: int, *mistake: str) -> dict[str, Any]:
    """Run the harness as a program of its own."""
    command = [sys.executable, "-m", "harness.racing", folder, str(races), "1", *mistake]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_a_fenced_job_saves_is_listed_or_never_seen(fast_folder: str) -> None:
    found = raced(fast_folder, RACES)
    assert found["problems"] == []
    assert found["races"] == RACES
    assert found["acknowledged"] > RACES / 5, "too little was saved for the races to mean much"


def test_the_races_notice_that_a_job_checks_and_then_renames(fast_folder: str) -> None:
    assert raced(fast_folder, 10 * RACES, "check, then rename")["problems"]
