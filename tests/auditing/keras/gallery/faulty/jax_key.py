"""A dataset that adds noise by JAX. Forgotten: the key is a variable of the module."""

import jax
import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
key = jax.random.key(3)


class Noisy(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, number):
        global key
        key, now = jax.random.split(key)
        part = slice(number * 8, number * 8 + 8)
        return x[part] + 0.1 * np.asarray(jax.random.normal(now, (8, 5))), y[part]


model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(Noisy(), epochs=3, verbose=0, callbacks=[Checkpoint("runs/noisy")])
