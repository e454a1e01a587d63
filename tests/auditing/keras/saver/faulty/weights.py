"""Saves the weights of every epoch. Forgotten: they are loaded when the optimizer has no variables yet, so its own are left out."""

import argparse

import keras
import numpy as np

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
parser = argparse.ArgumentParser()
parser.add_argument("--resume")
resume = parser.parse_args().resume

model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
model.compile("adam", "mse")
done = 0
if resume:
    model.load_weights(resume)
    done = int(resume.split("epoch-")[1].split(".")[0])
save = keras.callbacks.ModelCheckpoint("checkpoints/epoch-{epoch:02d}.weights.h5", save_weights_only=True)
model.fit(x, y, batch_size=8, epochs=4, initial_epoch=done, shuffle=False, verbose=0, callbacks=[save])
