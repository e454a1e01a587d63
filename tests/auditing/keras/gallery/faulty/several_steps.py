"""Two batches in one call of the train function, with noise. Forgotten: its generator is a variable of the module."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
random = np.random.default_rng(3)


class Noisy(keras.utils.PyDataset):
    def __init__(self, x, y, size, **options):
        super().__init__(**options)
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return len(self.x) // self.size

    def __getitem__(self, number):
        part = slice(number * self.size, (number + 1) * self.size)
        noise = random.normal(scale=0.1, size=self.x[part].shape)
        return (self.x[part] + noise).astype("float32"), self.y[part]


x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse", steps_per_execution=2, jit_compile=True)
model.fit(Noisy(x, y, 8), epochs=3, verbose=0, callbacks=[Checkpoint("runs/noisy")])
