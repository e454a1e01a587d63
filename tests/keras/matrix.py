"""Every setting of `fits.py` on every backend, each in a process of its own, and the whole example on MNIST (`mnist`):
``make test-keras``; ARGS="torch unbuilt" chooses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import example

FITS = Path(__file__).with_name("fits.py")
BACKENDS = ("tensorflow", "jax", "torch")
MNIST = "mnist"
ACCURACY = 0.97
"""On images that were not trained on, after the example's eight epochs."""
SETTINGS = (
    "validation_split", "steps_per_epoch", "steps_per_execution", "jit_compile", "shuffle_batch", "unbuilt",
    "class_weight", "unknown_length", "plateau", "pydataset", "pydataset_workers", "pydataset_processes", "dataloader",
    "dataloader_workers", "generator", MNIST,
)  # fmt: skip


class Result(NamedTuple):
    setting: str
    moment: str
    """Which batch of the second epoch was done last when training went on."""
    problem: str
    """What is not the same as in the run that was never interrupted."""
    seconds: float


def results(backend: str, settings: tuple[str, ...], limit: float, *, short: bool = False) -> list[Result]:
    """What the runs of one backend came to; `short` for some of the moments."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(FITS), backend, *["--short"] * short, *settings],
        capture_output=True,
        text=True,
        timeout=limit,
        env=environment,
    )
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = [Result(*json.loads(line)) for line in lines]
    missing = set(settings) - {one.setting for one in found}
    if done.returncode or missing:
        raise RuntimeError(f"{backend}: no result of {missing}\n{done.stderr[-4000:]}")
    return found


def run(backend: str, settings: tuple[str, ...]) -> int:
    """Print what the settings came to; returns how many results are not the same."""
    differ = 0
    for setting in settings:
        for one in [mnist(backend)] if setting == MNIST else results(backend, (setting,), 3600):
            differ += bool(one.problem)
            words = f"{backend:11}{one.setting:20}{one.moment:16}{one.seconds:6.1f} s  {one.problem or 'same'}"
            print(words, flush=True)
    return differ


def mnist(backend: str) -> Result:
    """What the whole example came to, killed and not."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = example.killed(backend, Path(folder), example.WHOLE)
    reached = outcome.accuracies[-1]
    problem = ", ".join(outcome.differing) or ("" if reached >= ACCURACY else f"val_accuracy is {reached}")
    return Result(MNIST, f"{reached:.4f}", problem, time.monotonic() - began)


def main() -> int:
    wanted = sys.argv[1:]
    backends = [one for one in BACKENDS if one in wanted] or BACKENDS
    settings = tuple(one for one in wanted if one not in BACKENDS) or SETTINGS
    began = time.monotonic()
    with ThreadPoolExecutor(len(backends)) as beside:
        differ = sum(beside.map(lambda backend: run(backend, settings), backends))
    print(f"{differ} differ; {time.monotonic() - began:.0f} s")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
