"""Stops when the loss stands still. Forgotten: for how long it has is not in the backup."""

import keras
import numpy as np

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.001), "mse")
stop = keras.callbacks.EarlyStopping(monitor="loss", patience=3, min_delta=0.2)
backup = keras.callbacks.BackupAndRestore("backup", delete_checkpoint=False)
model.fit(x, y, batch_size=8, epochs=9, shuffle=False, verbose=0, callbacks=[stop, backup])
