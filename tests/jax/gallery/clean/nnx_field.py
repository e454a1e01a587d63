"""A module that counts its calls in a variable and warms up."""

import sys

import jax.numpy as jnp
import numpy as np
from flax import nnx

import milepost

inputs = np.random.default_rng(4).normal(size=(7, 8, 3)).astype("float32")
batches = [(x, np.abs(x).sum(axis=1)) for x in inputs]


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 1, rngs=rngs)
        self.calls = nnx.Variable(jnp.asarray(0))

    def __call__(self, x, scale):
        return self.linear(x)[:, 0] * scale

    def warm_up(self):
        self.calls[...] += 1
        return min(1.0, int(self.calls[...]) / 30)


net = Net(nnx.Rngs(0))


@nnx.jit
def train_step(linear, x, y, scale):
    return nnx.value_and_grad(lambda linear: jnp.square(linear(x)[:, 0] * scale - y).mean())(linear)


with milepost.Checkpointer(sys.argv[1] if len(sys.argv) > 1 else "runs/job", net=net) as run:
    for _ in run.epochs(3):
        for x, y in run.batches(batches):
            loss, gradients = train_step(net.linear, x, y, net.warm_up())
            net.linear.kernel[...] -= 0.05 * gradients.kernel[...]
            run.step(loss=loss)
