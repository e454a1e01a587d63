"""Goes on by BackupAndRestore, every three batches. Forgotten: it knows of the epoch only, whose batches are trained twice."""

import keras
import numpy as np

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
backup = keras.callbacks.BackupAndRestore("backup", save_freq=3)
model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=[backup])
