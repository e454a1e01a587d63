"""What a checkpoint is good for, by the names that libraries use."""

from __future__ import annotations

from typing import Any

import pytest

from milepost.core import dtypes
from milepost.core.source import TensorSpec
from milepost.formats.source import Nothing
from milepost.ops.holding import holding

ONE = TensorSpec(dtypes.dtype("float32"), (1,), 4)


def told(tensors: str, plain: str = "", **metadata: Any) -> str:
    source = Nothing("x", dict.fromkeys(plain.split(), 1), metadata)
    source._specs = dict.fromkeys(tensors.split(), ONE)
    return str(holding(source))


NOT_EXACTLY = "; no random state, no data position: training continues, not exactly"


@pytest.mark.parametrize(
    ("tensors", "plain", "expected"),
    [
        ("fc.weight fc.bias", "", "weights only; no optimizer: training starts anew from them"),
        ("model/fc.weight model/sampler.weight_of_random", "", "weights only; no optimizer: training starts anew from them"),
        ("model/w optimizer/state/0/exp_avg", "epoch", f"a resumable state: weights, optimizer and step{NOT_EXACTLY}"),
        ("params/w opt_state/0/mu/w", "step", f"a resumable state: weights, optimizer and step{NOT_EXACTLY}"),
        ("state_dict/w optimizer_states/0/state/0/exp_avg", "lr_schedulers/0/gamma loops/fit_loop/x global_step",
         "a resumable state: weights, optimizer, schedule, data position and step; no random state: training continues, "
         "not exactly"),
        ("model/w optimizer/state/0/exp_avg rng_state/cpu", "trainer_state/global_step scheduler/x",
         "a resumable state: weights, optimizer, schedule, random state and data position: training may continue exactly"),
        ("w w/Adam w/Adam_1 global_step", "", f"a resumable state: weights, optimizer and step{NOT_EXACTLY}"),
        ("state/0/exp_avg state/0/exp_avg_sq", "", "optimizer; no weights: a part of a checkpoint"),
        ("", "lr", "plain values, no tensors"),
    ],
)  # fmt: skip
def test_by_names(tensors: str, plain: str, expected: str) -> None:
    assert told(tensors, plain) == expected


def test_formats_that_have_the_architecture() -> None:
    whole = "a whole model, architecture and weights; no optimizer: training starts anew from it"
    assert told("w", format="an ONNX model") == whole
    assert told("0/weight", "~class") == whole
    assert told("layers/w optimizer/vars/1", format="a Keras model").startswith(
        "a resumable state: architecture, weights"
    )
    assert told("w", format="weights of Keras in HDF5").startswith("weights only")


def test_what_milepost_wrote() -> None:
    state = "model/w optimizer/m run/rng/python/words run/vars/ema"
    assert told(state, "run/data/done run/progress/step", attempt=1) == (
        "a resumable state: weights, optimizer, random state, data position and step: training continues exactly"
    )
    assert told("model/w run/vars/ema", attempt=1).startswith("weights only")
    assert told("params/w muon/w run/rng/numpy/state", "run/data/done", attempt=1) == (
        "a resumable state: weights, random state and data position: training continues exactly"
    )
