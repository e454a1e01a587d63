"""The example, killed by SIGKILL in the middle of an epoch and started again by the same command, ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import milepost

EXAMPLE = Path(__file__).parents[2] / "examples" / "jax_mnist.py"
BATCHES, EPOCHS = 8, 4


def start(run: Path) -> subprocess.Popen[str]:
    options = {"--run": run, "--epochs": EPOCHS, "--every": 3, "--images": 128 * BATCHES}
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE), *(str(part) for option in options.items() for part in option)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},
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


def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    beside = start(straight)
    kill_within_an_epoch(start(killed), killed)
    again, said = finish(start(killed))
    expected, _ = finish(beside)
    assert "continues from step" in said
    lines, left = expected.splitlines(), again.splitlines()
    assert len(lines) == EPOCHS
    assert left
    assert lines[-len(left) :] == left
    one, other = milepost.open(f"{straight}@latest"), milepost.open(f"{killed}@latest")
    names = [name for name in one if name.partition("/")[0] in ("params", "opt_state", "key")]
    assert {"params/dense1/kernel", "opt_state/0/mu/dense1/kernel", "key"} <= set(names)
    for name in names:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name, strict=True)
