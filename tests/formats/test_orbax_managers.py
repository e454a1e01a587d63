"""Folders of steps that Orbax keeps, against what Orbax itself loads from them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import milepost
import milepost.jax
from milepost.cli.main import main
from milepost.errors import FormatError, MetricError, MismatchError, NotFoundError, ReferenceSyntaxError
from milepost.formats.orbax import MOST_TREES, Orbax
from milepost.ops.sequence import describe, members


@pytest.fixture(scope="module")
def made(make: Callable[[str], Path]) -> Path:
    return make("orbax_managers")


@pytest.mark.parametrize(
    ("place", "expected", "under"),
    [
        ("single", "single", ""), ("single@step=10", "single", ""), ("several", "several", ""),
        ("several", "texts", "texts/"), ("legacy", "legacy", ""), ("legacy/3", "legacy", ""), ("new", "new", ""),
        ("new-several", "new-several", ""),
    ],
)  # fmt: skip
def test_every_value_is_what_orbax_loads(made: Path, place: str, expected: str, under: str) -> None:
    source = milepost.open(f"{made}/{place}")
    bits = np.load(made / f"{expected}.npz")
    leaves = json.loads((made / f"{expected}.json").read_text())
    assert leaves
    for path, told in leaves.items():
        if not isinstance(told, list):
            assert source.plain[under + path] == told, path
            continue
        array = source[under + path]
        assert [array.dtype.name, list(array.shape)] == told, path
        np.testing.assert_array_equal(array.reshape(-1).view(np.uint8), bits[path.replace("/", "|")], path)
    known = {f"{under}{path}" for path, told in leaves.items() if isinstance(told, list)}
    assert {path for path in source if path.startswith(under)} - known <= {"texts/w"}


def test_steps_times_and_metrics(made: Path) -> None:
    found = [describe(one) for one in members(f"{made}/single")]
    assert [(one.name, one.step, one.metrics["loss"]) for one in found] == [
        ("1", 1, 0.5),
        ("2", 2, 0.25),
        ("10", 10, 0.75),
    ]
    assert all(one.metrics["n/acc"] == 1 and one.time > "2026" for one in found)
    assert milepost.open(f"{made}/single/2").metadata["step"] == 2  # not the 7 that is in the state
    assert milepost.open(f"{made}/single").plain["custom_metadata"] == {"epoch": 10}
    assert [describe(one).step for one in members(f"{made}/several")] == [5, 10]
    assert math.isnan(describe(f"{made}/new/1").metrics["loss"])


def test_which(made: Path) -> None:
    steps = {
        "single@latest": 10, "single@~1": 2, "single@step=2": 2, "single@best=loss": 2, "single@best=loss:max": 10,
        "single@best=n/acc": 1, "single@2": 2, "new@best": 2, "several@ckpt_00000005": 5, "processes@best": 2,
    }  # fmt: skip
    assert {ref: milepost.open(f"{made}/{ref}").metadata["step"] for ref in steps} == steps


def test_which_that_is_none(made: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        milepost.open(f"{made}/single@step=3")
    assert caught.value.found == "steps 1, 2, 10; metrics loss, n/acc"
    with pytest.raises(MetricError, match="which metric") as caught_metric:
        milepost.open(f"{made}/single@best")
    assert caught_metric.value.found == "loss, n/acc"
    with pytest.raises(MetricError, match="smaller or a larger 'size'"):
        milepost.open(f"{made}/single@best=size")
    with pytest.raises(MetricError) as none:
        milepost.open(f"{made}/several@best")
    assert none.value.found == "no metrics"
    with pytest.raises(ReferenceSyntaxError, match="one checkpoint"):
        milepost.open(f"{made}/single/2@latest")


def test_a_step_that_was_never_finished_is_named_and_passed_over(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{made}/cut-short"
    assert milepost.open(place).metadata["unfinished"] == ["10.orbax-checkpoint-tmp"]
    assert milepost.open(f"{place}@latest").metadata["step"] == milepost.open(place).metadata["step"] == 2
    with pytest.raises(FormatError, match="never finished"):
        milepost.open(f"{place}@10.orbax-checkpoint-tmp")
    assert main(["ls", "--json", place]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["others"]
    rows = [(row["step"], row["problem"] and row["problem"]["message"]) for row in listed["checkpoints"]]
    assert rows == [(1, None), (2, None), (10, "saving this checkpoint was never finished")]
    assert [row["metrics"] for row in listed["checkpoints"]] == [
        {"loss": 0.5, "n/acc": 1},
        {"loss": 0.25, "n/acc": 1},
        {},
    ]
    assert main(["ls", place]) == 0
    shown = capsys.readouterr().out
    assert "loss" in shown.splitlines()[1]
    assert "never finished" in shown.splitlines()[-1]


def test_nothing_was_ever_finished(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "single" / "1", tmp_path / "1.orbax-checkpoint-tmp-17")
    with pytest.raises(FormatError, match="ever finished") as caught:
        milepost.open(tmp_path)
    assert caught.value.found == "1.orbax-checkpoint-tmp-17"


@pytest.mark.parametrize("place", ["processes@step=1", "processes-v1"])
def test_steps_that_two_processes_saved(made: Path, place: str) -> None:
    source = milepost.open(f"{made}/{place}")
    whole = np.arange(24, dtype=np.float32).reshape(8, 3)
    np.testing.assert_array_equal(source["w" if "w" in source else "params/w"], whole * (1 if "step=1" in place else 2))
    assert source.metadata["metrics"] == {"loss": 1.0 if "step=1" in place else 0.5}


def test_the_steps_of_a_job_share_few_processes(made: Path, tmp_path: Path) -> None:
    for step in range(MOST_TREES + 2):
        shutil.copytree(made / "processes-v1" / "1", tmp_path / str(step))
    sources: list[Any] = [milepost.open(tmp_path / str(step)) for step in range(MOST_TREES + 2)]
    assert all(isinstance(one, Orbax) for one in sources)
    assert len({id(one._child) for one in sources}) == 2
    (tmp_path / "1" / "state" / "manifest.ocdbt").write_bytes(b"not one")
    with pytest.raises(FormatError) as caught:
        milepost.open(tmp_path / "1")
    assert caught.value.where == f"{tmp_path}/1/state"  # of the many that the process serves
    assert all(one["w"].shape == (8, 3) for one in sources[2:4])


def test_a_live_pytree_is_filled(made: Path) -> None:
    params = {"dense": {"kernel": jnp.zeros((4, 3), jnp.bfloat16), "bias": jnp.zeros(3)}}
    keys = {"key": jax.random.key(0), "keys": jax.random.split(jax.random.key(0, impl="rbg"))}
    live = {"params": params, "opt_state": optax.adamw(1e-3).init(params), **keys}
    found = milepost.jax.restore(f"{made}/single@best=loss", live, item="")
    assert jax.tree.structure(found) == jax.tree.structure(live)
    assert found["key"] == jax.random.key(3)
    assert str(jax.random.key_impl(found["keys"])) == "rbg"
    bits = np.load(made / "single.npz")
    assert np.asarray(found["params"]["dense"]["kernel"]).tobytes() == bits["params|dense|kernel"].tobytes()
    with pytest.raises(MismatchError, match="does not fit") as caught:
        milepost.jax.restore(milepost.open(made / "single"), {"key": jax.random.key(0, impl="rbg")}, item="")
    assert [(row.saved, row.here) for row in caught.value.rows] == [
        ("key<threefry2x32> uint32 [2]", "key<rbg> uint32 [4]")
    ]


def test_an_object_of_nnx_is_filled(made: Path) -> None:
    model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(7)), nnx.BatchNorm(8, rngs=nnx.Rngs(7)))
    nnx.update(model, milepost.jax.restore(f"{made}/single", nnx.state(model), item="nnx"))
    bits = np.load(made / "single.npz")["nnx|layers|0|kernel"]
    assert np.asarray(model.layers[0].kernel[...]).tobytes() == bits.tobytes()
