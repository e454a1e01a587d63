"""Lowers the learning rate as training goes on, by the number of the epoch."""

import keras
import numpy as np

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.001), "mse")
lower = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.001 if epoch < 3 else 0.0005)
backup = keras.callbacks.BackupAndRestore("backup")
model.fit(x, y, batch_size=8, epochs=6, shuffle=False, verbose=0, callbacks=[lower, backup])
