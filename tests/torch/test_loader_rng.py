"""PyTorch's generators: global states, courses, objects. What needs an accelerator is not tested."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from loader_data import assert_plain, seed_everything

from milepost.errors import MismatchError
from milepost.training import rng
from milepost.training.generators import find_generators


def draws() -> list[float]:
    return [torch.rand(()).item(), *torch.randn(3).tolist()]


def test_the_global_state_comes_back() -> None:
    seed_everything(1)
    draws()
    everything = rng.GlobalRng()
    saved = everything.capture()
    assert_plain(saved)
    assert {"python", "numpy", "torch"} <= saved.keys()
    expected = draws()
    seed_everything(2)
    assert everything.restore(saved) == []
    assert draws() == expected
    assert torch.initial_seed() == 1


def test_devices_that_are_not_here_are_named_and_handed_on() -> None:
    everything = rng.GlobalRng()
    saved = everything.capture()
    count = torch.cuda.device_count()
    saved["torch"] |= {
        f"cuda:{count}": {"bytes": np.arange(16, dtype=np.uint8)},
        "npu:0": {"bytes": np.zeros(1, np.uint8)},
    }
    seed_everything(5)
    assert everything.restore(saved) == [f"cuda:{count}", "npu:0"]
    again = everything.capture()
    assert list(again["torch"]) == list(saved["torch"])
    np.testing.assert_equal(again, saved)


def test_read_only_states_restore() -> None:
    everything = rng.GlobalRng()
    saved = everything.capture()
    saved["torch"]["cpu"]["bytes"].flags.writeable = False  # type: ignore[attr-defined]
    expected = draws()
    everything.restore(saved)
    assert draws() == expected


def test_a_course_leaves_no_trace_and_continues() -> None:
    course = rng.Course({"torch": 7})
    seed_everything(1)
    plain = [draws() for _ in range(4)]
    with rng.Course({"torch": 7}):
        together = [draws() for _ in range(4)]
    seed_everything(1)
    beside = []
    for expected in plain:
        with course:
            beside.append(draws())
        assert draws() == expected
    assert beside == together != plain


def test_seeding_leaves_accelerators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("accelerators must not be seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    rng.seed_all(3)
    first = draws()
    rng.seed_all(3)
    assert draws() == first
    assert random.random() != first[0]


def test_generator_objects() -> None:
    generator = torch.Generator().manual_seed(4)
    torch.rand(3, generator=generator)
    state = rng.capture_generator(generator)
    assert_plain(state)
    expected = torch.rand(5, generator=generator)
    other = torch.Generator()
    rng.restore_generator(other, state)
    assert torch.equal(torch.rand(5, generator=other), expected)
    rng.seed_generator(other, 2**100)
    rng.seed_generator(generator, 2**100)
    assert torch.equal(torch.rand(5, generator=other), torch.rand(5, generator=generator))
    with pytest.raises(MismatchError, match=r"sampler\.generator"):
        rng.restore_generator(np.random.default_rng(0), state, "sampler.generator")
    with pytest.raises(MismatchError, match=r"sampler\.generator"):
        rng.restore_generator(other, {**state, "state": {"bytes": np.zeros(7, np.uint8)}}, "sampler.generator")


def test_generators_in_modules_are_found_and_the_global_one_is_not() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module[0].noise = torch.Generator()
    module[0].usual = torch.default_generator
    assert list(find_generators({"collate_fn": module})) == ["collate_fn._modules['0'].noise"]
