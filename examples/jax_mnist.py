"""Train a small network on MNIST with JAX and Optax so that it can be killed at any moment and continued by the same command.

    python examples/jax_mnist.py --run runs/jax-mnist

What milepost asks of a script is marked with (1) to (4); the rest is plain JAX.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mnist_data
import numpy as np
import optax

import milepost

Params = dict[str, dict[str, jax.Array]]


def main() -> None:
    """Train, validate after each epoch, say how it goes."""
    args = arguments()
    data = mnist_data.load()
    images, labels = floats(data.train_images[: args.images]), data.train_labels[: args.images].astype("int32")
    unseen = floats(data.test_images), data.test_labels.astype("int32")

    key = jax.random.key(args.seed)
    params = init(key)
    optimizer = optax.adamw(optax.cosine_decay_schedule(args.lr, 8 * 469))
    opt_state = optimizer.init(params)

    # As most scripts do, this one donates the state to the step, which then works in place.
    @partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params: Params, opt_state: Any, key: jax.Array, x: jax.Array, y: jax.Array) -> tuple[Any, ...]:
        key, dropout = jax.random.split(key)
        value, gradients = jax.value_and_grad(loss)(params, x, y, dropout)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, key, value

    # (1) Name what the training replaces, and go on with what comes back: restored, or as given.
    with milepost.Checkpointer(
        args.run,
        params=params,
        opt_state=opt_state,
        key=key,
        every=milepost.Every(steps=args.every),
        keep=milepost.Keep(last=3, best="val_loss"),
    ) as run:
        params, opt_state, key = run["params"], run["opt_state"], run["key"]

        for epoch in run.epochs(args.epochs):  # (2) continues with the epoch in which the last attempt stopped,
            for x, y in run.batches(Batches(images, labels, (args.seed, epoch))):  # and the batch it did not get to.
                params, opt_state, key, value = train_step(params, opt_state, key, x, y)
                run.step(params=params, opt_state=opt_state, key=key, loss=value)  # (3) Saves when it is time to.

            val_loss, val_accuracy = (float(one) for one in validate(params, *unseen))
            print(f"epoch {epoch}: val_loss {val_loss:.4f}, val_accuracy {val_accuracy:.4f}", flush=True)
            run.epoch_end(val_loss=val_loss, val_accuracy=val_accuracy)  # (4) Metrics that choose the best checkpoint.


def init(key: jax.Array) -> Params:
    """Two dense layers."""
    one, two = jax.random.split(key)
    return {
        "dense1": {"kernel": jax.random.normal(one, (784, 512)) * 0.05, "bias": jnp.zeros(512)},
        "dense2": {"kernel": jax.random.normal(two, (512, 10)) * 0.05, "bias": jnp.zeros(10)},
    }


def scores(params: Params, x: jax.Array, dropout: jax.Array | None = None) -> jax.Array:
    """For each image, ten numbers; the largest is at the digit."""
    hidden = jax.nn.relu(x @ params["dense1"]["kernel"] + params["dense1"]["bias"])
    if dropout is not None:
        hidden *= jax.random.bernoulli(dropout, 0.8, hidden.shape) / 0.8
    return hidden @ params["dense2"]["kernel"] + params["dense2"]["bias"]


def loss(params: Params, x: jax.Array, y: jax.Array, dropout: jax.Array | None = None) -> jax.Array:
    """The mean cross entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(scores(params, x, dropout), y).mean()


@jax.jit
def validate(params: Params, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Loss and accuracy on images that were not trained on."""
    return loss(params, x, y), (scores(params, x).argmax(axis=1) == y).mean()


class Batches:
    """The images of an epoch in an order that follows from `seed`, 128 at a time."""

    def __init__(self, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], seed: tuple[int, int]) -> None:
        self._images, self._labels = images, labels
        self._order = np.random.default_rng(seed).permutation(len(images))

    def __len__(self) -> int:
        return -(-len(self._order) // 128)

    def __getitem__(self, number: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        chosen = self._order[128 * number : 128 * (number + 1)]
        return self._images[chosen], self._labels[chosen]


def floats(images: mnist_data.Bytes) -> np.ndarray[Any, Any]:
    """Pixels as floats from 0 to 1, an image a row."""
    return images.reshape(-1, 784).astype("float32") / 255


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small network on MNIST with JAX, checkpointed by milepost.")
    parser.add_argument("--run", default="runs/jax-mnist", help="run directory (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the data (default: %(default)s)")
    parser.add_argument("--images", type=int, default=60_000, help="train on so many (default: %(default)s)")
    parser.add_argument("--every", type=int, default=100, help="save every so many steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, dropout and order (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate at first (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
