"""Take the weights of a run of `keras_mnist.py` into a new network and see how good they are.

python examples/keras_restore.py runs/keras-mnist@latest
"""

from __future__ import annotations

import argparse

import mnist_data
import numpy as np
from keras_mnist import network

import milepost


def main() -> None:
    """Restore, evaluate."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint of examples/keras_mnist.py.")
    parser.add_argument("checkpoint", nargs="?", default="runs/keras-mnist@latest", help="(default: %(default)s)")
    args = parser.parse_args()

    data = mnist_data.load()
    images = data.test_images.reshape(-1, 784).astype("float32") / 255
    model = network()
    _, before = model.evaluate(images, data.test_labels, verbose=0)

    source = milepost.open(args.checkpoint)
    # The same network in a process of its own has the same names.
    for variable in model.weights:
        variable.assign(np.asarray(source[f"model/{variable.path}"]))
    _, after = model.evaluate(images, data.test_labels, verbose=0)
    print(f"untrained model, accuracy {before:.2%}; restored model, accuracy {after:.2%}")


if __name__ == "__main__":
    main()
