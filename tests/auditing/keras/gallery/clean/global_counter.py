"""Warms the learning rate up by epochs, which Keras counts."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")


def warm_up(epoch, rate):
    return 0.01 * min(1.0, (epoch + 1) / 4)


model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=["mae"])
model.fit(
    x,
    y,
    batch_size=8,
    epochs=4,
    verbose=0,
    validation_split=0.2,
    callbacks=[keras.callbacks.LearningRateScheduler(warm_up), Checkpoint("runs/warm-up")],
)
