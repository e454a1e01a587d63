"""A training script without a framework, for what signals do to a process: `python plain.py RUN HOW`.

Says "open" once signals are watched. `HOW` is how it comes to its end: "with", "bare" (no with, no close), or "after" (the run ends
cleanly, and the script has more to do).
"""

from __future__ import annotations

import sys
import time

import numpy as np

import milepost


def train(run: milepost.Checkpointer, steps: int) -> None:
    weights = run["weights"]
    print("open", flush=True)
    for _ in run.steps(steps):
        weights = weights + 1
        run.step(weights=weights)
        time.sleep(0.002)


def main() -> None:
    directory, how = sys.argv[1:]
    run = milepost.Checkpointer(directory, weights=np.zeros(1 << 16), progress=False)
    if how == "bare":
        train(run, 100_000)
    with run:
        try:
            train(run, 100_000 if how == "with" else 3)
        finally:
            time.sleep(0.05)  # what scripts do while they unwind
    print("closed", flush=True)
    for _ in range(50):
        time.sleep(0.02)
    print("done", flush=True)


if __name__ == "__main__":
    main()
