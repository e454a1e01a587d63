"""Any pytree comes back as it was: structure, classes, types, weak types, keys, bits."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trees
from flax import linen
from flax.training.train_state import TrainState
from hypothesis import given, settings

import milepost
from milepost.errors import MismatchError, NotStorableError
from milepost.jax.items import PytreeItem
from milepost.training.items import ValueItem, make_item

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where waiting for the disk takes no time."""


@given(value=trees.trees)
@settings(max_examples=60, deadline=None)
def test_any_pytree_comes_back(value: Any) -> None:
    value = {"tree": value, "array": jnp.ones(2)}
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        for number, target in enumerate([jax.tree.map(trees.blank, value), trees.described(value)]):
            trees.assert_same(trees.again(Path(folder, str(number)), value, target), value)


@pytest.mark.parametrize("dtype", trees.DTYPES + trees.WIDE)
def test_every_dtype_and_its_bits(dtype: str, tmp_path: Path) -> None:
    with jax.enable_x64(dtype in trees.WIDE):
        value = {str(shape): jnp.asarray(trees.filled(dtype, shape, 5)) for shape in trees.SHAPES}
        assert {leaf.dtype.name for leaf in value.values()} == {dtype}
        trees.assert_same(trees.again(tmp_path / "run", value, jax.tree.map(trees.blank, value)), value)
    found = milepost.open(f"{tmp_path}/run@latest")
    for name, leaf in value.items():
        assert found[f"value/{name}"].dtype == leaf.dtype
        assert trees.bits(found[f"value/{name}"]) == trees.bits(leaf)


@pytest.mark.parametrize("impl", trees.KEYS)
def test_keys_draw_on_as_they_would_have(impl: str, tmp_path: Path) -> None:
    value = {"typed": jax.random.key(3, impl=impl), "raw": jax.random.PRNGKey(4, impl=impl)}
    drawn = jax.random.normal(value["typed"])
    found = trees.again(tmp_path / "run", value, jax.eval_shape(lambda: value))
    trees.assert_same(found, value)
    assert jax.random.normal(found["typed"]) == drawn


def test_a_key_of_another_kind_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"key<rbg>.*key<threefry2x32>"):
        trees.again(tmp_path / "run", jax.random.key(0, impl="rbg"), jax.random.key(0))


class Mlp(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(2, name="head")(linen.relu(linen.BatchNorm(use_running_average=True, name="norm")(x)))


def test_linen_and_optax_in_a_train_state(tmp_path: Path) -> None:
    def made(seed: int) -> TrainState:
        tx = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.inject_hyperparams(optax.adamw)(learning_rate=optax.cosine_decay_schedule(0.1, 10)),
        )
        variables = Mlp().init(jax.random.key(seed), jnp.ones((1, 3)))
        state = TrainState.create(apply_fn=Mlp().apply, params=variables, tx=tx)
        return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params)) if seed else state

    value, target = made(7), made(0)
    # Two optimizers are never equal, so the structure is that of the target.
    found = trees.again(tmp_path / "run", value, target)
    assert found.tx is target.tx
    trees.assert_same(found.replace(tx=value.tx, apply_fn=value.apply_fn), value)
    on_disk = milepost.open(f"{tmp_path}/run@latest")
    assert {"value/params/params/head/kernel", "value/params/batch_stats/norm/mean"} <= set(on_disk)
    assert on_disk.plain["value/step"] == 1


def test_names_on_disk_and_what_is_not_stored(tmp_path: Path) -> None:
    value = {
        "dense1": {"kernel": jnp.ones((2, 3)), "bias": None},
        "layers": [trees.Layer(jnp.zeros(1), 2.5), jax.nn.relu],
        "module": trees.Module(jnp.zeros(3), {"deep": (jnp.ones(1),)}),
        "pair": trees.Pair(jnp.ones(1), "text", "static"),
        "adam": optax.adam(0.1).init({"w": jnp.ones(1)}),
    }
    trees.again(tmp_path / "run", value, value)
    found = milepost.open(f"{tmp_path}/run@latest")
    assert {name for name in found if name.startswith("value/")} == {
        "value/dense1/kernel", "value/layers/0/kernel", "value/module/weight", "value/module/inner/deep/0",
        "value/pair/0", "value/adam/0/count", "value/adam/0/mu/w", "value/adam/0/nu/w",
    }  # fmt: skip
    plain = {name: one for name, one in found.plain.items() if name.startswith("value/")}
    assert plain["value/layers/0/scale"] == 2.5
    assert plain["value/pair/1"] == "text"
    assert "value/layers/0/name" not in plain  # static: the script's
    assert not any("activation" in name for name in plain)


def test_plain_parts_may_grow(tmp_path: Path) -> None:
    value = {"w": jnp.ones(2), "losses": [1.0, 0.5], "more": {"epoch": 3, "notes": ("a", "b")}}
    found = trees.again(tmp_path / "run", value, {"w": jnp.zeros(2), "losses": [], "more": {"epoch": 0}})
    assert {name: one for name, one in found.items() if name != "w"} == {
        name: one for name, one in value.items() if name != "w"
    }


def test_a_counter_that_became_an_array(tmp_path: Path) -> None:
    value = {"w": jnp.ones(2), "step": jnp.asarray(3)}
    trees.assert_same(trees.again(tmp_path / "run", value, {"w": jnp.ones(2), "step": 0}), value)


def test_what_does_not_fit_is_named_and_nothing_changes(tmp_path: Path) -> None:
    value = {"a": jnp.ones((2, 3)), "b": jnp.ones(2), "c": jnp.ones(1)}
    target = {"a": jnp.ones((3, 2)), "b": jnp.ones(2, jnp.bfloat16), "d": jnp.ones(1)}
    with pytest.raises(MismatchError) as caught:
        trees.again(tmp_path / "run", value, target)
    assert {(row.path, row.saved, row.here) for row in caught.value.rows} == {
        ("value/a", "float32 [2, 3]", "float32 [3, 2]"),
        ("value/b", "float32 [2]", "bfloat16 [2]"),
        ("value/c", "float32 [1]", "nothing"),
        ("value/d", "nothing", "float32 [1]"),
    }


def test_64_bits_are_never_cut_in_half(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        value = {"w": jnp.ones(2, jnp.float64)}
        trees.again(tmp_path / "run", value, value)
    with pytest.raises(MismatchError, match="jax_enable_x64"):
        trees.again(tmp_path / "run", {"w": np.ones(2)}, {"w": np.ones(2)})
    with pytest.raises(MismatchError, match="jax_enable_x64"):
        trees.again(tmp_path / "numpy", {"w": np.ones(2)}, {"w": jax.ShapeDtypeStruct((2,), "float64")})
    trees.assert_same(trees.again(tmp_path / "host", {"w": np.ones(2)}, {"w": np.zeros(2)}), {"w": np.ones(2)})


def test_a_run_that_begins_has_to_make_what_was_only_described(tmp_path: Path) -> None:
    def train() -> None:
        abstract = jax.eval_shape(lambda: {"w": jnp.ones(2)})
        with milepost.Checkpointer(tmp_path / "run", value=abstract, progress=False) as run:
            run.step(value=run["value"])

    with pytest.raises(NotStorableError, match=r"value/w"):
        train()


def test_a_traced_value_is_refused(tmp_path: Path) -> None:
    def train() -> None:
        with milepost.Checkpointer(tmp_path / "run", value=jnp.ones(2), progress=False) as run:

            @jax.jit
            def step(value: jax.Array) -> jax.Array:
                run.step(value=value)
                return value

            step(run["value"])

    with pytest.raises(NotStorableError, match=r"(?s)value.*jax\.jit"):
        train()


def test_values_without_arrays_are_none_of_jax() -> None:
    around: list[object] = []
    around.append(around)
    for value in ({"lr": 0.1, "names": ["a"]}, {1: np.ones(1), "1": np.ones(1)}, around):
        assert type(make_item("config", value)) is ValueItem
    assert type(make_item("params", {"w": jnp.ones(1)})) is PytreeItem
    assert type(make_item("key", jax.random.key(0))) is PytreeItem
