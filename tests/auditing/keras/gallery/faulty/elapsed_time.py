"""Lowers the learning rate as time goes by. Forgotten: the clock knows nothing of the restart, nor of anything else."""

import time

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
began = time.time()


def lower(epoch, rate):
    return 0.01 / (1.0 + time.time() - began)


model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(
    x, y, batch_size=8, epochs=3, verbose=0,
    callbacks=[keras.callbacks.LearningRateScheduler(lower), Checkpoint("runs/lower")],
)  # fmt: skip
