"""The first checkpoint at which training went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milepost.core.manifest import FORMAT, Summary
from milepost.folder.retention import Keep
from milepost.ops import listing
from milepost.ops.refs import open as open_source
from milepost.ops.refs import open_run
from milepost.ops.symptoms import Watch, from_summaries


def summary(good: bool = True, **metrics: Any) -> Summary:
    return Summary(FORMAT, "r", 1, 1, metrics=metrics, good=good, why_not_good=None if good else "NaN or infinity in w")


@pytest.mark.parametrize(
    ("summaries", "expected"),
    [
        ([summary(), summary(good=False), summary(good=False)], {1: ("first NaN or infinity",)}),
        ([summary(loss=1.0), summary(loss="nan"), summary(loss="inf")], {1: ("first NaN in loss",)}),
        ([summary(loss=2.0), None, summary(loss=0.5), summary(loss=4.9), summary(loss=5.0), summary(loss=60.0)],
         {4: ("first explosion: loss × 10",)}),
        ([summary(accuracy=0.01), summary(accuracy=0.99)], {}),
        ([summary(loss=0.0), summary(loss=0.1), summary(loss=-1.0), summary(loss=3.0)], {}),
    ],
)  # fmt: skip
def test_from_summaries(summaries: list[Summary | None], expected: dict[int, tuple[str, ...]]) -> None:
    found = from_summaries(summaries)
    assert {index: marks for index, marks in enumerate(found) if marks} == expected


def looked_at(folder: Path, *states: dict[str, Any]) -> list[tuple[str, ...]]:
    watch, found = Watch(), []
    for number, state in enumerate(states):
        file = folder / f"{number}.npz"
        np.savez(file, **state)
        found.append(watch.look(open_source(file)))
    return found


def test_weights_that_explode(tmp_path: Path) -> None:
    weight, zeros = np.full(50, 0.1), np.zeros(5)
    states = [
        {"w": weight, "b": zeros, "optimizer/m": zeros},
        {"w": weight * 2, "b": zeros + 1e-3, "optimizer/m": zeros + 1e6},  # what began as zeros grows
        {"w": weight * 2, "b": zeros + 0.05, "optimizer/m": zeros},
        {"w": weight * 100, "b": zeros, "optimizer/m": zeros},
        {"w": weight * 1e9, "b": zeros, "optimizer/m": zeros},
    ]
    assert looked_at(tmp_path, *states) == [(), (), (), ("first explosion: w × 50",), ()]


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    fine = np.ones(4)
    found = looked_at(
        tmp_path,
        {"w": fine, "rng/x": fine * math.nan},
        {"w": [1, math.inf, 1, math.inf], "optimizer/m": fine},
        {"w": [math.nan, math.inf, 1, 1], "optimizer/m": fine * math.nan},
    )
    assert found == [(), ("first infinity: w (2 of 4)",), ("first NaN: w (1 of 4)",)]


def test_of_a_run(start_job: Callable[..., Any]) -> None:
    job = start_job(keep=Keep(last=None))
    frozen = np.ones(1000, np.float32)
    for step, scale in ((1, 1.0), (2, 2.0), (3, 300.0), (4, math.nan)):
        job.save(step, {"model": {"w": np.full(300_000, scale, np.float32), "frozen": frozen}}, loss=scale)
    job.end()
    cheap = listing.list_run(open_run(job.run.where))
    assert [row.symptoms for row in cheap.rows] == [
        (), (), ("first explosion: loss × 300",), ("first NaN or infinity", "first NaN in loss"),
    ]  # fmt: skip
    read: list[str] = []
    full = listing.check_values(cheap, lambda path, nbytes: read.append(path))
    assert [row.symptoms for row in full.rows] == [
        (), (), ("first explosion: model/w × 150", "first explosion: loss × 300"),
        ("first NaN: model/w (300,000 of 300,000)", "first NaN in loss"),
    ]  # fmt: skip
    assert read.count("model/frozen") == 1  # its digest was known from then on


def test_a_damaged_checkpoint_is_said(start_job: Callable[..., Any]) -> None:
    job = start_job()
    job.save(1, {"model": {"w": np.ones(3000)}})
    file = Path(job.run.where) / "step-00000001" / "model.safetensors"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    found = listing.check_values(listing.list_run(open_run(job.run.where)))
    assert found.rows[0].symptoms == ("damaged: milepost verify tells more",)
