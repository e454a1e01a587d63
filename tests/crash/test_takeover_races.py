"""300 takeovers of a process that is saving: what the newcomer sees is all there ever is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RACES = 300


def test_a_stale_process_never_becomes_visible(tmp_path: Path) -> None:
    driver = Path(__file__).with_name("takeover_driver.py")
    done = subprocess.run(
        [sys.executable, driver, tmp_path / "run", str(RACES), "7"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    assert json.loads(done.stdout)["with_checkpoints"] > RACES * 0.9
