"""Noise from a typed key that is split at each step and handed over."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import milepost

inputs = np.random.default_rng(4).normal(size=(7, 8, 3)).astype("float32")
batches = [(x, np.abs(x).sum(axis=1)) for x in inputs]
params = {"kernel": jax.random.normal(jax.random.key(0), (3, 1)) * 0.1, "bias": jnp.zeros(1)}
key = jax.random.key(7)


def loss_of(params, x, y):
    return ((x @ params["kernel"] + params["bias"] - y[:, None]) ** 2).mean()


@jax.jit
def train_step(params, x, y):
    loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
    return jax.tree.map(lambda one, gradient: one - 0.05 * gradient, params, gradients), loss


with milepost.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else "runs/job", params=params, key=key) as run:
    params, key = run["params"], run["key"]
    for _ in run.epochs(3):
        for x, y in run.batches(batches):
            key, noise = jax.random.split(key)
            params, loss = train_step(params, x + 0.1 * jax.random.normal(noise, x.shape), y)
            run.step(params=params, key=key, loss=loss)
