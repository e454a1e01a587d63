"""A small model and its training, on the TensorFlow backend and run eagerly to be quick; for the tests beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")
BATCHES = 5


def model(units: int = 2) -> Any:
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    made.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", metrics=["mae"], run_eagerly=True)
    return made


def fit(made: Any, *callbacks: Any, epochs: int = 2, **options: Any) -> Any:
    data = {"validation_data": (X[:4], Y[:4]), "batch_size": 4, "verbose": 0, **options}
    return made.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **data)


def weights(made: Any) -> list[bytes]:
    return [np.asarray(one).tobytes() for one in [*made.variables, *made.optimizer.variables]]


class Values(keras.callbacks.Callback):
    """Lets a metric be what a test says, epoch by epoch."""

    def __init__(self, *values: float, name: str = "val_loss") -> None:
        super().__init__()
        self.values, self.name = values, name

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs[self.name] = self.values[epoch]


class Stop(keras.callbacks.Callback):
    """Ends the process, as far as the run can tell, before a batch."""

    class Killed(Exception):  # noqa: N818
        pass

    def __init__(self, batch: int, how: Any = None) -> None:
        super().__init__()
        self.left, self.how = batch, how

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            if self.how is None:
                raise Stop.Killed
            self.how()


def files(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.suffix != ".milepost")
