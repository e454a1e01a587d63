"""`milepost.jax.restore`: a pytree out of a checkpoint or a file, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trees
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import save_file

import milepost
import milepost.jax
from milepost.errors import MismatchError


def made() -> dict[str, Any]:
    return {
        "w": jnp.arange(8.0).reshape(4, 2), "half": jnp.ones(3, jnp.bfloat16), "weak": jnp.asarray(2.0),
        "key": jax.random.key(3, impl="rbg"), "net": eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(1)), "epoch": 3,
    }  # fmt: skip


def test_out_of_a_run(tmp_path: Path) -> None:
    value = made()
    trees.again(tmp_path / "run", value, value)
    abstract = eqx.filter_eval_shape(made)
    found = milepost.jax.restore(f"{tmp_path}/run@latest", abstract, item="value")
    trees.assert_same(found, value)
    everywhere = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec())
    part = {"w": abstract["w"], "half": abstract["half"]}  # the rest of the checkpoint does not matter
    found = milepost.jax.restore(f"{tmp_path}/run@latest", part, item="value", sharding=everywhere)
    trees.assert_same(found, jax.device_put({name: value[name] for name in part}, everywhere))


def test_a_module_of_nnx_comes_whole(tmp_path: Path) -> None:
    net = nnx.Linear(3, 2, rngs=nnx.Rngs(5))
    with milepost.Checkpointer(tmp_path / "run", net=net, progress=False) as run:
        run.step()
    abstract = nnx.eval_shape(lambda: nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    found = milepost.jax.restore(f"{tmp_path}/run", abstract, item="net")
    assert isinstance(found, nnx.Linear)
    assert (found(jnp.ones((1, 3))) == net(jnp.ones((1, 3)))).all()


def test_out_of_a_file_that_has_no_parts(tmp_path: Path) -> None:
    save_file({"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.int32)}, tmp_path / "some.safetensors")
    target = {"a": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    found = milepost.jax.restore(f"{tmp_path}/some.safetensors", target, item="")
    trees.assert_same(found, {"a": jnp.ones((2, 3))})


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    trees.again(tmp_path / "run", {"a": jnp.ones(2)}, {"a": jnp.ones(2)})
    target = {"a": jnp.ones(3), "c": jnp.ones(1)}
    with pytest.raises(MismatchError) as caught:
        milepost.jax.restore(f"{tmp_path}/run", target, item="value")
    assert [(row.path, row.saved, row.here) for row in caught.value.rows] == [
        ("value/a", "float32 [2]", "float32 [3]"), ("value/c", "nothing", "float32 [1]"),
    ]  # fmt: skip
    with pytest.raises(MismatchError, match="item= is one of run, value"):
        milepost.jax.restore(f"{tmp_path}/run", {"a": jnp.ones(2)})


def test_what_the_module_offers() -> None:
    assert milepost.jax.__all__ == ["restore"]
