"""A module of Flax NNX and its optimizer, given once."""

import sys

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import milepost

inputs = np.random.default_rng(4).normal(size=(7, 8, 3)).astype("float32")
batches = [(x, np.abs(x).sum(axis=1)) for x in inputs]


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))[:, 0]


net = Net(nnx.Rngs(0))
optimizer = nnx.Optimizer(net, optax.adam(0.05), wrt=nnx.Param)


@nnx.jit
def train_step(net, optimizer, x, y):
    loss, gradients = nnx.value_and_grad(lambda net: jnp.square(net(x) - y).mean())(net)
    optimizer.update(net, gradients)
    return loss


with milepost.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else "runs/job", net=net, optimizer=optimizer) as run:
    for _ in run.epochs(3):
        for x, y in run.batches(batches):
            run.step(loss=train_step(net, optimizer, x, y))
