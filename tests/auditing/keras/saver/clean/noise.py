"""A dataset whose noise follows from the step that the optimizer has reached."""

import keras
import numpy as np

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")


class Noisy(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, number):
        part = slice(number * 8, number * 8 + 8)
        noise = np.random.default_rng(number).normal(scale=0.1, size=(8, 5))
        return (x[part] + noise).astype("float32"), y[part]


model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
backup = keras.callbacks.BackupAndRestore("backup")
model.fit(Noisy(), epochs=4, shuffle=False, verbose=0, callbacks=[backup])
