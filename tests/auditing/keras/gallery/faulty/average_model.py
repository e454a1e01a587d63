"""Follows the weights by an average that is validated. Forgotten: the averaged model is nowhere saved."""

import keras
import numpy as np

from milepost.keras import Checkpoint

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
averaged = keras.models.clone_model(model)
averaged.set_weights(model.get_weights())


class Average(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        now = self.model.get_weights()
        averaged.set_weights([0.8 * one + 0.2 * other for one, other in zip(averaged.get_weights(), now, strict=True)])
        self.model.set_weights(averaged.get_weights())
        logs["val_averaged"] = self.model.evaluate(x[:16], y[:16], verbose=0)
        self.model.set_weights(now)


average = Average()
model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[average, Checkpoint("runs/average")])
