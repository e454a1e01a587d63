"""The script that most tests of the audit use."""

SCRIPT = """
import sys
import numpy as np
import milepost

rng, count = np.random.default_rng(3), 0
with milepost.Checkpointer("runs/job", w=np.zeros(3), rng=rng, every=milepost.Every(steps=3), progress=False) as run:
    for epoch in run.epochs(3):
        for batch in run.batches(np.arange(15.0).reshape(5, 3)):
            run.step(w=run["w"] + batch + rng.random(3), loss=batch.sum())
            {step}
        run.epoch_end(val_loss=float(run["w"].sum()))
"""
