"""Lowers the learning rate as training goes on."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")


def lower(epoch, rate):
    return 0.01 / (1.0 + epoch)


model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(
    x, y, batch_size=8, epochs=3, verbose=0,
    callbacks=[keras.callbacks.LearningRateScheduler(lower), Checkpoint("runs/lower")],
)  # fmt: skip
