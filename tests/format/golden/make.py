"""Write the golden run of this version of the format: ``python tests/format/golden/make.py tests/format/golden/v1``.

Run it once for each version of the format, never again for the same: `test_golden.py` reads what is there, so that runs of
today can still be read tomorrow.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import milepost
from milepost.training import provenance


def state(step: int) -> dict[str, Any]:
    """The items of the golden run after `step` steps."""
    first = np.arange(6, dtype=np.float32).reshape(2, 3) * step
    return {
        "model": {
            "first.weight": first,
            "first.bias": np.array([0.5, -0.0, np.float32(1e-45)], np.float32),
            "frozen": np.arange(2000, dtype=np.float64),
            "half": np.array([1.5, -2.25], ml_dtypes.bfloat16),
            "quarter": np.array([1.0, 448.0], ml_dtypes.float8_e4m3fn),
            "phase": np.array([1 + 2j], np.complex128),
            "mask": np.array([True, False]),
            "empty": np.zeros((0, 3), np.int16),
            "scalar": np.array(7, np.int64),
            "tied": first,
        },
        "plain": {
            "step": step,
            "name": "größe/~",
            1: "int key",
            "1": "str key",
            None: (1, [2.5, float("inf")], {3}, b"\x00\xff", 1 + 2j),
            "big": 2**70,
        },
    }


def main() -> None:
    """Three checkpoints, the last two sharing what did not change."""
    provenance.written_by = lambda: {"milepost": milepost.__version__}  # not where this was run
    with milepost.Checkpointer(Path(sys.argv[1]), signals=(), progress=False, **state(0)) as run:
        for step in (1, 2, 3):
            run.step(loss=1 / step, **state(step))
            run.save()
            run.wait()


if __name__ == "__main__":
    main()
