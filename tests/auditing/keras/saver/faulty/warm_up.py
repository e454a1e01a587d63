"""Warms the learning rate up. Forgotten: the epochs are counted in a global variable."""

import keras
import numpy as np

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
begun = 0


def warm_up(epoch, rate):
    global begun
    begun += 1
    return 0.01 * min(1.0, begun / 4)


callbacks = [keras.callbacks.LearningRateScheduler(warm_up), keras.callbacks.BackupAndRestore("backup")]
model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
