"""Every third epoch trains with a smaller step. Forgotten: a function counts the epochs in a variable that it keeps."""

import keras
import numpy as np

from milepost.keras import Checkpoint


def every_third(model):
    begun = 0

    def choose(epoch, logs):
        nonlocal begun
        begun += 1
        model.optimizer.learning_rate = 0.001 if begun % 3 == 0 else 0.01

    return keras.callbacks.LambdaCallback(on_epoch_begin=choose)


def main():
    keras.utils.set_random_seed(7)
    x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    y = (x[:, :1] > 0).astype("float32")
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[every_third(model), Checkpoint("runs/third")])


main()
