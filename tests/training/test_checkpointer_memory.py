"""Host memory: one more copy of the state at most, or as much as was allowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from exact_jobs import folder_fixture  # noqa: F401

SCRIPT = Path(__file__).parent / "scripts" / "memory.py"
MEGABYTES = 256
SLACK = 6 << 20
"""What the allocator keeps, and pages of libraries that only a state of this size touches: 0.6 MB where this was written."""


def measure(*arguments: object) -> tuple[int, int, str]:
    """Bytes by which the peak rose, bytes of the state, what was continued."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(out[0]), int(out[1]), out[2]


def test_one_copy_of_the_state(tmp_path: Path) -> None:
    rose, state, _ = measure(tmp_path / "run", MEGABYTES)
    assert state <= rose <= state + SLACK
    rose, state, resumed = measure(tmp_path / "run", MEGABYTES)
    assert resumed == "step-00000003"
    assert rose <= state + SLACK


def test_as_much_as_is_allowed(tmp_path: Path) -> None:
    allowed = 64 << 20
    rose, state, _ = measure(tmp_path / "run", MEGABYTES, allowed)
    assert rose <= allowed + SLACK < state
