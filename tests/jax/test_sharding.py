"""Arrays over several devices: each element saved once, and restored where the target, or the caller, wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trees
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import milepost
from milepost.errors import ScriptError, UnknownItemError

SPECS = (P(), P("x"), P(None, "y"), P("x", "y"), P(("x", "y")), P("y", "x"))


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))


def spread(spec: P, value: Any = None) -> jax.Array:
    value = np.arange(32, dtype=np.float32).reshape(8, 4) if value is None else value
    return jax.device_put(value, NamedSharding(mesh(), spec))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_an_array_over_four_devices_is_one_plain_tensor_on_disk(spec: P, tmp_path: Path) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    value = {
        "w": spread(spec),
        "half": spread(spec).astype(jnp.bfloat16),
        "keys": jax.device_put(keys, NamedSharding(mesh(), P("x"))),
        "apart": jax.device_put(np.ones(3), jax.devices()[2]),
        "here": jnp.ones(2),
    }
    found = trees.again(tmp_path / "run", value, jax.tree.map(trees.blank, value))
    trees.assert_same({**found, "keys": 0}, {**value, "keys": 0})
    assert (jax.random.key_data(found["keys"]) == jax.random.key_data(keys)).all()
    on_disk = milepost.open(f"{tmp_path}/run@latest")
    np.testing.assert_array_equal(on_disk["value/w"], np.arange(32, dtype=np.float32).reshape(8, 4), strict=True)
    assert (tmp_path / "run" / "latest" / "value.safetensors").stat().st_size < 8192  # each element once


@pytest.mark.parametrize("other", SPECS, ids=str)
def test_restored_with_the_sharding_of_the_target(other: P, tmp_path: Path) -> None:
    value, where = spread(P("x", "y")), NamedSharding(mesh(), other)
    described = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=where)
    for number, target in enumerate([described, jax.device_put(jnp.zeros((8, 4)), where)]):
        found = trees.again(tmp_path / str(number), value, target)
        assert found.sharding == where
        assert trees.bits(found) == trees.bits(value)


def test_a_value_goes_back_as_told(tmp_path: Path) -> None:
    value = {"a": spread(P("x")), "b": {"c": jnp.ones((4, 4)), "d": jnp.ones(4)}}
    with milepost.Checkpointer(tmp_path / "run", value=value, rng=np.random.default_rng(3), progress=False) as run:
        run.step(value=value)
        run.save()
        run.wait()
        everywhere, rows = NamedSharding(mesh(), P()), NamedSharding(mesh(), P("y"))
        run.restore(sharding={"value": everywhere})
        assert {leaf.sharding for leaf in jax.tree.leaves(run["value"])} == {everywhere}
        run.restore(sharding={"value": {"a": rows, "b": everywhere}})
        assert [leaf.sharding for leaf in jax.tree.leaves(run["value"])] == [rows, everywhere, everywhere]
        run.restore(target={"value": trees.described(value)})
        assert {type(leaf.sharding) for leaf in jax.tree.leaves(run["value"])} == {SingleDeviceSharding}
        run.restore(target={"value": trees.described(value)}, sharding={"value": rows})
        assert {leaf.sharding for leaf in jax.tree.leaves(run["value"])} == {rows}
        trees.assert_same(run["value"], jax.device_put(value, rows))
        with pytest.raises(UnknownItemError, match="did you mean 'value'"):
            run.restore(sharding={"valu": rows})
        with pytest.raises(ScriptError, match="'rng'"):
            run.restore(sharding={"rng": rows})
        with pytest.raises(ScriptError, match="does not fit value"):
            run.restore(sharding={"value": {"a": rows}})


def test_nothing_is_computed_to_describe_the_target(tmp_path: Path) -> None:
    def init() -> Any:
        return {"w": jnp.ones((4, 4)), "key": jax.random.key(3), "count": jnp.asarray(0)}

    abstract = jax.eval_shape(init)
    for _ in range(2):
        with milepost.Checkpointer(tmp_path / "run", value=abstract, progress=False) as run:
            value = run["value"] if run.resumed_from else jax.jit(init)()
            if not run.resumed_from:
                run.step(value=value)
    trees.assert_same(value, init())
