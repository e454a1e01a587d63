"""The example on a part of MNIST, killed by SIGKILL in the middle of an epoch and started again by the same command, on three
backends; `make test-keras` does so with all of it."""

from __future__ import annotations

from pathlib import Path

import example
import matrix
import pytest


@pytest.mark.parametrize("backend", matrix.BACKENDS)
def test_a_killed_training_ends_with_the_same_bits(backend: str, tmp_path: Path) -> None:
    outcome = example.killed(backend, tmp_path, example.SMALL)
    assert outcome.differing == []
    assert outcome.compared > 15
    assert "continues from step" in outcome.said
    assert len(outcome.accuracies) == example.SMALL.epochs
