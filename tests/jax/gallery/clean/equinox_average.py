"""A module of Equinox and a sum of losses for the epoch, in run.vars."""

import sys

import equinox as eqx
import jax
import numpy as np

import milepost

inputs = np.random.default_rng(4).normal(size=(7, 8, 3)).astype("float32")
batches = [(x, np.abs(x).sum(axis=1)) for x in inputs]
net = eqx.nn.MLP(3, "scalar", 8, 1, key=jax.random.key(0))


@eqx.filter_jit
def train_step(net, x, y):
    loss, gradients = eqx.filter_value_and_grad(lambda net: ((jax.vmap(net)(x) - y) ** 2).mean())(net)
    return eqx.apply_updates(net, jax.tree.map(lambda gradient: -0.02 * gradient, gradients)), loss


with milepost.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else "runs/job", net=net) as run:
    net = run["net"]
    run.vars.setdefault("total", 0.0)
    for _ in run.epochs(3):
        for x, y in run.batches(batches):
            net, loss = train_step(net, x, y)
            run.vars["total"] += float(loss)
            run.step(net=net, loss=loss)
        run.epoch_end(mean=run.vars["total"] / len(batches))
        run.vars["total"] = 0.0
