"""A loop over an iterator of Grain, read through the run."""

import sys

import grain.python as grain
import jax
import jax.numpy as jnp
import numpy as np

import milepost

inputs = np.random.default_rng(4).normal(size=(56, 3)).astype("float32")
serial = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
data = iter(grain.MapDataset.source(inputs).seed(3).shuffle().repeat().batch(8).to_iter_dataset(serial))
params = {"kernel": jax.random.normal(jax.random.key(0), (3, 1)) * 0.1, "bias": jnp.zeros(1)}


def loss_of(params, x, y):
    return ((x @ params["kernel"] + params["bias"] - y[:, None]) ** 2).mean()


@jax.jit
def train_step(params, x, y):
    loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
    return jax.tree.map(lambda one, gradient: one - 0.05 * gradient, params, gradients), loss


with milepost.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else "runs/job", params=params) as run:
    params = run["params"]
    batches = iter(run.batches(data))
    for _ in run.steps(21):
        x = next(batches)
        params, loss = train_step(params, x, np.abs(x).sum(axis=1))
        run.step(params=params, loss=loss)
