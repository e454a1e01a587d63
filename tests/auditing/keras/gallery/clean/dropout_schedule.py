"""Less dropout in every epoch, by the number of the epoch."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
dropout = keras.layers.Dropout(0.5)
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, activation="relu"), dropout, keras.layers.Dense(1)])
model.compile("adam", "mse", run_eagerly=True)


class LessDropout(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        dropout.rate = 0.5 * 0.5**epoch


model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[Checkpoint("runs/dropout"), LessDropout()])
