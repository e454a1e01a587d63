"""Follows the weights by an average that is validated, which the callback keeps as a list of arrays."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")


class Average(keras.callbacks.Callback):
    def __init__(self, model):
        super().__init__()
        self.averaged = model.get_weights()

    def on_epoch_end(self, epoch, logs=None):
        now = self.model.get_weights()
        self.averaged = [0.8 * one + 0.2 * other for one, other in zip(self.averaged, now, strict=True)]
        self.model.set_weights(self.averaged)
        logs["val_averaged"] = self.model.evaluate(x[:16], y[:16], verbose=0)
        self.model.set_weights(now)


average = Average(model)
model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[average, Checkpoint("runs/average")])
