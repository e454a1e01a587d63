"""examples/keras_mnist.py, killed by SIGKILL in the middle of an epoch and started again by the same command."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import milepost

SCRIPT = Path(__file__).parents[2] / "examples" / "keras_mnist.py"


class Size(NamedTuple):
    """How much of the example is run."""

    images: int
    epochs: int
    every: int
    limit: float
    """Seconds that a process may take."""

    @property
    def batches(self) -> int:
        return -(-self.images // 128)


SMALL, WHOLE = Size(1024, 4, 3, 300), Size(60_000, 8, 200, 7200)


class Outcome(NamedTuple):
    """What a training that was killed and one that was not came to."""

    differing: list[str]
    """Names of what is not the same in their last checkpoints, or in what they printed."""
    compared: int
    """How many arrays were compared."""
    said: str
    """What the second attempt said on stderr."""
    accuracies: list[float]
    """`val_accuracy`, epoch by epoch."""


def killed(backend: str, folder: Path, size: Size) -> Outcome:
    """Run it twice over: once in peace, once killed and continued."""
    straight, run = folder / "straight", folder / "killed"
    beside = start(backend, straight, size)
    kill_within_an_epoch(start(backend, run, size), run, size)
    again, said = finish(start(backend, run, size), size)
    expected, _ = finish(beside, size)
    one, other = milepost.open(f"{straight}@latest"), milepost.open(f"{run}@latest")
    names = [name for name in one if name.partition("/")[0] in ("model", "optimizer", "metrics", "fit")]
    differing = [name for name in names if not _same(one[name], other[name])]
    plain = [{name: value for name, value in of.plain.items() if name.startswith("fit/")} for of in (one, other)]
    # Keras gives the whole history, of which the killed process saw a part.
    printed = [text.splitlines()[-size.epochs :] for text in (expected, again)]
    differing += ["plain values"] * (plain[0] != plain[1]) + ["history"] * (printed[0] != printed[1])
    accuracies = [float(found) for found in re.findall(r"epoch \d+: val_accuracy ([\d.]+)", again)]
    return Outcome(differing, len(names), said, accuracies)


def start(backend: str, run: Path, size: Size) -> subprocess.Popen[str]:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    options = {"run": run, "epochs": size.epochs, "every": size.every, "images": size.images, "verbose": 0}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str], size: Size) -> tuple[str, str]:
    out, err = process.communicate(timeout=size.limit)
    assert process.returncode == 0, err
    return out, err


def kill_within_an_epoch(process: subprocess.Popen[str], run: Path, size: Size) -> None:
    """SIGKILL once a checkpoint in the middle of the second epoch, or a later one, stands."""
    deadline = time.monotonic() + size.limit
    while not any(int(one.name[5:13]) >= size.batches + size.every for one in run.glob("step-????????")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def _same(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
