"""Objects of Flax NNX: given once, changed in place, continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trees
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import milepost
from milepost.errors import MismatchError


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, width: int = 4) -> None:
        self.layers = nnx.List([nnx.Linear(3, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)])
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(width, 1, rngs=rngs)
        self.again = self.layers[1]  # the same layer at two places
        self.calls = nnx.Variable(jnp.asarray(0))
        self.name = "net"

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls[...] += 1
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(self.dropout(self.norm(self.again(x))))


@nnx.jit
def train_step(net: Net, optimizer: nnx.Optimizer, metrics: nnx.MultiMetric, x: jax.Array) -> jax.Array:
    loss, gradients = nnx.value_and_grad(lambda net: (net(x) ** 2).mean())(net)
    optimizer.update(net, gradients)
    metrics.update(loss=loss)
    return loss


def train(folder: Path, steps: int, *, stop: int | None = None, seed: int = 0) -> dict[str, Any]:
    """The state after `steps` steps, unless the process ends after `stop`."""
    net = Net(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
    metrics, rngs = nnx.MultiMetric(loss=nnx.metrics.Average("loss")), nnx.Rngs(noise=seed)
    with milepost.Checkpointer(
        folder, net=net, optimizer=optimizer, metrics=metrics, rngs=rngs, every=milepost.Every(steps=2), progress=False
    ) as run:
        for step in run.steps(steps):
            loss = train_step(net, optimizer, metrics, rngs.noise.normal((8, 3)))
            run.step(loss=loss)
            if step + 1 == stop:
                raise InterruptedError
    return {name: jax.tree.leaves(nnx.state(run[name])) for name in ("net", "optimizer", "metrics", "rngs")}


def test_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    expected = train(tmp_path / "straight", 7)
    with pytest.raises(InterruptedError):
        train(tmp_path / "run", 7, stop=5)
    found = train(tmp_path / "run", 7, seed=1)  # what this process begins with does not matter
    trees.assert_same(found, expected)
    on_disk = milepost.open(f"{tmp_path}/run@latest")
    names = {name for name in on_disk if name.partition("/")[0] in ("net", "optimizer", "rngs")}
    assert {
        "net/layers/0/kernel", "net/norm/mean", "net/dropout/rngs/key", "net/calls", "optimizer/step",
        "optimizer/opt_state/0/mu/head/kernel", "rngs/noise/count",
    } <= names  # fmt: skip
    assert sum(name in names for name in ("net/layers/1/kernel", "net/again/kernel")) == 1
    tensors = on_disk.manifest.tensors  # type: ignore[attr-defined]
    trained = {name for name in names if tensors[name].trained}
    assert {"net/head/kernel", "optimizer/opt_state/0/nu/head/bias"} <= trained
    assert not trained & {"net/norm/mean", "net/norm/var"}


def test_restored_into_what_was_only_described(tmp_path: Path) -> None:
    expected = train(tmp_path / "run", 3)
    rows = NamedSharding(Mesh(np.array(jax.devices()), ("x",)), PartitionSpec())
    net = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    items = {"net": net, "optimizer": nnx.eval_shape(lambda: nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param))}
    items |= {"metrics": nnx.MultiMetric(loss=nnx.metrics.Average("loss")), "rngs": nnx.Rngs(noise=5)}
    with milepost.Checkpointer(tmp_path / "run", state=items, progress=False) as run:
        assert run["net"] is net
        for name in ("net", "optimizer"):
            trees.assert_same(jax.tree.leaves(nnx.state(items[name])), expected[name])
        assert net(jnp.ones((2, 3))).shape == (2, 1)
        run.restore(sharding={"net": rows})
        assert {leaf.sharding for leaf in jax.tree.leaves(nnx.state(net, nnx.Param))} == {rows}


def test_a_module_of_another_width_does_not_fit_and_is_left_alone(tmp_path: Path) -> None:
    for width in (4, 5):
        net = Net(nnx.Rngs(0), width)
        before = jax.tree.leaves(nnx.state(net))
        if width == 4:
            with milepost.Checkpointer(tmp_path / "run", net=net, progress=False) as run:
                run.step()
    with pytest.raises(MismatchError) as caught:
        milepost.Checkpointer(tmp_path / "run", net=net, progress=False)
    assert ("net/layers/0/kernel", "float32 [3, 4]", "float32 [3, 5]") in {
        (row.path, row.saved, row.here) for row in caught.value.rows
    }
    trees.assert_same(jax.tree.leaves(nnx.state(net)), before)


def test_functional_states_are_handed_over(tmp_path: Path) -> None:
    graph, value = nnx.split(Net(nnx.Rngs(3)))
    found = trees.again(tmp_path / "run", value, nnx.split(Net(nnx.Rngs(4)))[1])
    trees.assert_same(found, value)
    assert isinstance(nnx.merge(graph, found), Net)
    assert "value/layers/0/kernel" in milepost.open(f"{tmp_path}/run@latest")
