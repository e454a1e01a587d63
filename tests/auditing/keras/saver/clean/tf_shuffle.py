"""Shuffles by tf.data, the same order in every epoch."""

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, y))
data = data.shuffle(40, seed=3, reshuffle_each_iteration=False).batch(8)
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(data, epochs=4, verbose=0, callbacks=[keras.callbacks.BackupAndRestore("backup")])
