"""A dataset that adds noise by JAX, from a key that follows from how many batches it has made."""

import jax
import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")


class Noisy(keras.utils.PyDataset):
    made = 0

    def __len__(self):
        return 5

    def __getitem__(self, number):
        self.made += 1
        now = jax.random.fold_in(jax.random.key(3), self.made)
        part = slice(number * 8, number * 8 + 8)
        return x[part] + 0.1 * np.asarray(jax.random.normal(now, (8, 5))), y[part]


model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(Noisy(), epochs=3, verbose=0, callbacks=[Checkpoint("runs/noisy")])
