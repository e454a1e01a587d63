from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def test_what_is_frozen_is_shared_from_the_second_save_on(start_job: Callable[..., Any], tmp_path: Path) -> None:
    job = start_job()
    frozen = np.random.default_rng(0).standard_normal(100_000)
    saved = [job.save(step, {"model": {"frozen": frozen, "head": np.full(100, float(step))}}) for step in (1, 2, 3)]
    assert [one.summary.new_bytes > frozen.nbytes for one in saved] == [True, False, False]
    files = {path.stat().st_ino for path in tmp_path.glob("run/step-*/*") if path.stat().st_size > frozen.nbytes}
    assert len(files) == 1
