"""Lowers the learning rate after epochs without progress. What the callback counts is in attributes of its own."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")


class LowerRate(keras.callbacks.Callback):
    def __init__(self, patience=2):
        super().__init__()
        self.patience = patience
        self.best, self.waited = float("inf"), 0

    def on_epoch_end(self, epoch, logs=None):
        if logs["loss"] < self.best - 0.05:
            self.best, self.waited = logs["loss"], 0
            return
        self.waited += 1
        if self.waited % self.patience == 0:
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2


model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.001), "mse")
model.fit(x, y, batch_size=8, epochs=5, verbose=0, callbacks=[Checkpoint("runs/patience"), LowerRate()])
