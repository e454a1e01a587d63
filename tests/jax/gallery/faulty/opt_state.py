"""Adam by Optax. Forgotten: its moments are in no state."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import milepost

inputs = np.random.default_rng(4).normal(size=(7, 8, 3)).astype("float32")
batches = [(x, np.abs(x).sum(axis=1)) for x in inputs]
params = {"kernel": jax.random.normal(jax.random.key(0), (3, 1)) * 0.1, "bias": jnp.zeros(1)}
tx = optax.adam(0.05)
opt_state = tx.init(params)


def loss_of(params, x, y):
    return ((x @ params["kernel"] + params["bias"] - y[:, None]) ** 2).mean()


@jax.jit
def train_step(params, opt_state, x, y):
    loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
    updates, opt_state = tx.update(gradients, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


with milepost.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else "runs/job", params=params) as run:
    params = run["params"]
    for _ in run.epochs(3):
        for x, y in run.batches(batches):
            params, opt_state, loss = train_step(params, opt_state, x, y)
            run.step(params=params, loss=loss)
