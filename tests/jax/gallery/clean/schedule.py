"""A learning rate that falls with the steps that the run counts."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import milepost

inputs = np.random.default_rng(4).normal(size=(7, 8, 3)).astype("float32")
batches = [(x, np.abs(x).sum(axis=1)) for x in inputs]
params = {"kernel": jax.random.normal(jax.random.key(0), (3, 1)) * 0.1, "bias": jnp.zeros(1)}


def loss_of(params, x, y):
    return ((x @ params["kernel"] + params["bias"] - y[:, None]) ** 2).mean()


@jax.jit
def train_step(params, rate, x, y):
    loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
    return jax.tree.map(lambda one, gradient: one - rate * gradient, params, gradients), loss


done = 0
with milepost.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else "runs/job", params=params) as run:
    params, done = run["params"], run.progress.step
    for _ in run.epochs(3):
        for x, y in run.batches(batches):
            params, loss = train_step(params, 0.1 / (1 + done), x, y)
            done += 1
            run.step(params=params, loss=loss)
