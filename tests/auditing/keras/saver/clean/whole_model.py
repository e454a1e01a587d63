"""Saves the whole model after every epoch."""

import argparse

import keras
import numpy as np

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
parser = argparse.ArgumentParser()
parser.add_argument("--resume")
resume = parser.parse_args().resume

if resume:
    model = keras.models.load_model(resume)
    done = int(resume.split("epoch-")[1].split(".")[0])
else:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    done = 0
save = keras.callbacks.ModelCheckpoint("checkpoints/epoch-{epoch:02d}.keras")
model.fit(x, y, batch_size=8, epochs=4, initial_epoch=done, shuffle=False, verbose=0, callbacks=[save])
