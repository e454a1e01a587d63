"""Goes on by BackupAndRestore. Forgotten: the data is shuffled by random numbers that begin anew."""

import keras
import numpy as np

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
backup = keras.callbacks.BackupAndRestore("backup")
model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[backup])
