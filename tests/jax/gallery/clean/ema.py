"""Averaged weights towards which the weights are pulled; the average is handed over."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import milepost

inputs = np.random.default_rng(4).normal(size=(7, 8, 3)).astype("float32")
batches = [(x, np.abs(x).sum(axis=1)) for x in inputs]
params = {"kernel": jax.random.normal(jax.random.key(0), (3, 1)) * 0.1, "bias": jnp.zeros(1)}
ema = params


def loss_of(params, x, y):
    return ((x @ params["kernel"] + params["bias"] - y[:, None]) ** 2).mean()


@jax.jit
def train_step(params, ema, x, y):
    loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
    params = jax.tree.map(lambda one, gradient, mean: one - 0.05 * (gradient + one - mean), params, gradients, ema)
    return params, jax.tree.map(lambda mean, one: 0.8 * mean + 0.2 * one, ema, params), loss


with milepost.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else "runs/job", params=params, ema=ema) as run:
    params, ema = run["params"], run["ema"]
    for _ in run.epochs(3):
        for x, y in run.batches(batches):
            params, ema, loss = train_step(params, ema, x, y)
            run.step(params=params, ema=ema, loss=loss)
