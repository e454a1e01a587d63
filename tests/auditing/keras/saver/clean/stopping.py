"""Stops when the loss is small."""

import keras
import numpy as np

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.001), "mse")
stop = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", logs["loss"] < 0.1)
)
backup = keras.callbacks.BackupAndRestore("backup", delete_checkpoint=False)
model.fit(x, y, batch_size=8, epochs=9, shuffle=False, verbose=0, callbacks=[stop, backup])
