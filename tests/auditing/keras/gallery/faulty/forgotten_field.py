"""A callback that saves itself. Forgotten: how long it has waited."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")


class Restless(keras.callbacks.Callback):
    """Halves the learning rate at every third epoch that is no better."""

    def __init__(self):
        super().__init__()
        self.best, self.waited = float("inf"), 0

    def on_epoch_end(self, epoch, logs=None):
        if logs["loss"] < self.best - 0.2:
            self.best, self.waited = logs["loss"], 0
        else:
            self.waited += 1
        if self.waited == 3:
            self.waited = 0
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2

    def state_dict(self):
        return {"best": self.best}

    def load_state_dict(self, state):
        self.best = state["best"]


model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(x, y, batch_size=8, epochs=5, verbose=0, callbacks=[Restless(), Checkpoint("runs/restless")])
