"""The example, killed by SIGKILL in the middle of an epoch and started again by the same command, on three backends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matrix
import numpy as np
import pytest

import milepost

EXAMPLE = Path(__file__).parents[2] / "examples" / "keras_mnist.py"
BATCHES, EPOCHS = 8, 4


def start(backend: str, run: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        str(EXAMPLE),
        "--run",
        str(run),
        "--epochs",
        str(EPOCHS),
        "--every",
        "3",
        "--verbose",
        "0",
    ]
    return subprocess.Popen(
        [*command, "--images", str(128 * BATCHES)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def kill_within_an_epoch(process: subprocess.Popen[str], run: Path) -> None:
    """SIGKILL once a checkpoint past the middle of the second epoch stands."""
    deadline = time.monotonic() + 300
    while not any(int(one.name[5:13]) > BATCHES + 3 for one in run.glob("step-????????")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("backend", matrix.BACKENDS)
def test_a_killed_training_ends_with_the_same_bits(backend: str, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    beside = start(backend, straight)
    kill_within_an_epoch(start(backend, killed), killed)
    again, said = finish(start(backend, killed))
    expected, _ = finish(beside)
    assert "continues from step" in said
    # Keras prints the whole history, of which the killed process saw a part.
    assert expected.splitlines()[-EPOCHS:] == again.splitlines()[-EPOCHS:]
    assert len([line for line in expected.splitlines() if "val_accuracy" in line]) == EPOCHS
    one, other = milepost.open(f"{straight}@latest"), milepost.open(f"{killed}@latest")
    names = [name for name in one if name.partition("/")[0] in ("model", "optimizer", "metrics", "fit")]
    assert len(names) > 15
    for name in names:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), err_msg=name, strict=True)
    plain = [{name: value for name, value in of.plain.items() if name.startswith("fit/")} for of in (one, other)]
    assert plain[0]
    assert plain[0] == plain[1]
