"""A network of Linen with batch normalisation, whose statistics are handed over."""

import sys

import jax
import numpy as np
from flax import linen as nn

import milepost

inputs = np.random.default_rng(4).normal(size=(7, 8, 3)).astype("float32")
batches = [(x, np.abs(x).sum(axis=1)) for x in inputs]


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.8)(nn.Dense(4)(x))
        return nn.Dense(1)(nn.relu(x))


variables = Net().init(jax.random.key(0), inputs[0], False)
params, batch_stats = variables["params"], variables["batch_stats"]


@jax.jit
def train_step(params, batch_stats, x, y):
    def loss_of(params):
        variables = {"params": params, "batch_stats": batch_stats}
        out, changed = Net().apply(variables, x, True, mutable=["batch_stats"])
        return ((out[:, 0] - y) ** 2).mean(), changed["batch_stats"]

    (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    return jax.tree.map(lambda one, gradient: one - 0.02 * gradient, params, gradients), batch_stats, loss


def validate():
    out = Net().apply({"params": params, "batch_stats": batch_stats}, inputs[0], False)
    return float(((out[:, 0] - batches[0][1]) ** 2).mean())


with milepost.Checkpointer(
    sys.argv[1] if len(sys.argv) > 1 else "runs/job", params=params, batch_stats=batch_stats
) as run:
    params, batch_stats = run["params"], run["batch_stats"]
    for _ in run.epochs(3):
        for x, y in run.batches(batches):
            params, batch_stats, loss = train_step(params, batch_stats, x, y)
            run.step(params=params, batch_stats=batch_stats, loss=loss)
        run.epoch_end(val_loss=validate())
