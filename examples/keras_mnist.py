"""Train a small network on MNIST with Keras so that it can be killed at any moment and continued by the same command.

    KERAS_BACKEND=jax python examples/keras_mnist.py --run runs/keras-mnist

What milepost asks of a script is the one line marked with (1); the rest is plain Keras, on whichever backend.
"""

from __future__ import annotations

import argparse

import keras
import mnist_data

import milepost.keras


def main() -> None:
    """Train, validate after each epoch, say how it went."""
    args = arguments()
    keras.utils.set_random_seed(args.seed)

    data = mnist_data.load()
    images, labels = data.train_images[: args.images], data.train_labels[: args.images]
    train = images.reshape(-1, 784).astype("float32") / 255, labels.astype("int32")
    unseen = data.test_images.reshape(-1, 784).astype("float32") / 255, data.test_labels.astype("int32")

    model = network()
    model.summary()

    history = model.fit(
        *train,
        batch_size=128,
        epochs=args.epochs,
        validation_data=unseen,
        verbose=args.verbose,
        # (1) A checkpoint at the end of each epoch, and one in between every so many steps.
        callbacks=[milepost.keras.Checkpoint(args.run, every=milepost.Every(steps=args.every, epochs=1))],
    )

    for epoch, accuracy in zip(history.epoch, history.history["val_accuracy"], strict=True):
        print(f"epoch {epoch + 1}: val_accuracy {accuracy:.4f}")


def network() -> keras.Model:
    """The network with two layers, compiled."""
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return model


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small Keras network on MNIST, checkpointed by milepost.")
    parser.add_argument("--run", default="runs/keras-mnist", help="run directory (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the data (default: %(default)s)")
    parser.add_argument("--images", type=int, default=60_000, help="train on so many (default: %(default)s)")
    parser.add_argument("--every", type=int, default=200, help="save every so many steps too (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, dropout and order (default: %(default)s)")
    parser.add_argument("--verbose", default=1, type=int, help="Keras' own progress, 0 to 2 (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
