"""Eight tasks, drawn one after the other from a set of names. Forgotten: each process has another order of its sets."""

import sys

import numpy as np

import milepost

np.random.seed(21)

tasks = {"colour", "depth", "light", "motion", "shape", "size", "sound", "texture"}
weights = {name: np.zeros(4) for name in sorted(tasks)}

with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/set_order",
    weights=weights,
    every=milepost.Every(steps=4),
) as run:
    for _ in run.steps(18):
        weights, loss = dict(run["weights"]), 0.0
        for name in tasks:
            inputs = np.random.randn(8, 4)
            error = inputs @ weights[name] - inputs[:, 0] * len(name)
            weights[name] = weights[name] - 0.05 * error @ inputs / 8
            loss += float(np.square(error).mean())
        run.step(weights=weights, loss=loss)
