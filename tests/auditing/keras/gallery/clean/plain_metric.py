"""Logs the largest error so far, which the callback keeps."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")


class Mean(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.losses = []

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["loss"])
        logs["mean_loss"] = sum(self.losses) / len(self.losses)


mean = Mean()
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[mean, Checkpoint("runs/mean")])
