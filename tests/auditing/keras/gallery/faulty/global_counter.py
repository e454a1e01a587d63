"""Warms the learning rate up by epochs. Forgotten: they are counted in a global variable."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
epochs_done = 0


def warm_up(epoch, rate):
    global epochs_done
    epochs_done += 1
    return 0.01 * min(1.0, epochs_done / 4)


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
