"""Real SIGKILLs at random instants: nothing that was acknowledged is lost, nothing half is visible."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

KILLS = 300


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    driver = Path(__file__).with_name("sigkill_driver.py")
    done = subprocess.run(
        [sys.executable, driver, tmp_path / "run", str(KILLS), "20"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    seen = json.loads(done.stdout)
    # The kills must have come at moments that matter, or the test says nothing.
    assert seen["acknowledged"] > KILLS / 2
    assert seen["killed_while_saving"] > KILLS / 10
