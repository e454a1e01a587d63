"""A loop of one's own in TensorFlow, killed and started again, ends with the same bits in everything that has state."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import milepost

SCRIPT = Path(__file__).parent / "custom_loop.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=900
    )


def result(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_killed_loop_goes_on_bit_for_bit(tmp_path: Path) -> None:
    straight = result(run(tmp_path / "straight", 20))
    assert run(tmp_path / "run", 20, 13).returncode == -signal.SIGKILL  # in the middle of the second epoch
    again = run(tmp_path / "run", 20)
    assert "continues from step 12" in again.stderr
    assert result(again) == straight
    assert straight["numbers"]["other"] >= 5  # with the layers in a list, and the seed of one
    saved = set(milepost.open(tmp_path / "run"))
    assert {
        "net/tied",
        "net/heads/1",
        "net/scales/in",
        "net/dense/_kernel",
        "average/0",
        "velocity/of/0",
        "count/value",
    } <= saved
    assert "net/heads/0" not in saved, "it is saved once"
