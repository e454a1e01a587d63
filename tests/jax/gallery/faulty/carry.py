"""The state of a recurrent cell goes on from batch to batch. Forgotten: it is in no state."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import milepost

inputs = np.random.default_rng(4).normal(size=(7, 8, 3)).astype("float32")
batches = [(x, np.abs(x).sum(axis=1)) for x in inputs]
params = {"in": jax.random.normal(jax.random.key(0), (3, 4)) * 0.3, "back": jnp.eye(4) * 0.5, "out": jnp.ones((4, 1))}
carry = jnp.zeros((8, 4))


@jax.jit
def train_step(params, carry, x, y):
    def loss_of(params):
        hidden = jnp.tanh(x @ params["in"] + carry @ params["back"])
        return ((hidden @ params["out"] - y[:, None]) ** 2).mean(), hidden

    (loss, carry), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    return jax.tree.map(lambda one, gradient: one - 0.02 * gradient, params, gradients), carry, loss


with milepost.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else "runs/job", params=params) as run:
    params = run["params"]
    for _ in run.epochs(3):
        for x, y in run.batches(batches):
            params, carry, loss = train_step(params, carry, x, y)
            run.step(params=params, loss=loss)
