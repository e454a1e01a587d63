"""The benchmark of JAX runs from end to end on a tiny state. What it measures there means nothing and is not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.parametrize("donate", [[], ["--donate"]])
def test_it_measures_all_three(donate: list[str], tmp_path: Path) -> None:
    options = ["--width", "16", "--layers", "2", "--saves", "1", "--folder", str(tmp_path), *donate]
    ran = subprocess.run(
        [sys.executable, str(BENCH / "jax_saves.py"), *options], capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    for name in ("milepost", "Orbax", "Orbax async"):
        assert f"\n{name:12} save call" in ran.stdout
    assert list(tmp_path.iterdir()) == []
