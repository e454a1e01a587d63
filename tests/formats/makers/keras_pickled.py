"""A model of Keras with its weights pickled, which Keras does on request and then does not read, and one in its usual format."""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"

import keras
from keras.src.saving import saving_lib

out = Path(sys.argv[1])
model = keras.Sequential(
    [keras.layers.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.BatchNormalization()]
)
model.compile("adam")
model.optimizer.build(model.trainable_variables)
model.optimizer.iterations.assign(7)
saving_lib.save_model(model, out / "pickled.keras", weights_format="npz")
model.save(out / "usual.keras")
