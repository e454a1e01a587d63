"""Every model of `architectures` trained and saved in each of the formats of Keras: ``python transfer_sources.py FOLDER``.

Beside them, as NAME.LIBRARY.npz, what comes out of the model, and its weights.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import architectures
import keras
import numpy as np
import tensorflow as tf
import tf_keras

import milepost.keras

out = Path(sys.argv[1])
os.chdir(out)

# As the tutorial has it, once in tf_keras: eight epochs, a checkpoint after each.
random = np.random.default_rng(0)
x, y = random.normal(size=(64, 784)).astype("float32"), np.arange(64) % 10
model = architectures.classic(tf_keras)
saving = tf_keras.callbacks.ModelCheckpoint("training/cp-{epoch:04d}.ckpt", save_weights_only=True)
model.fit(x, y, epochs=8, callbacks=[saving], verbose=0)

for name, make in architectures.MODELS.items():
    batch = architectures.data(name)
    for library, called in ((tf_keras, "tf_keras"), (keras, "keras")):
        if (name, called) != ("classic", "tf_keras"):
            model = make(library)
            model.compile("adam", "mse")
            wanted = np.zeros_like(architectures.outputs(model, batch))
            watching = [milepost.keras.Checkpoint(f"{name}.run", progress=False)] if library is keras else []
            model.fit(batch, wanted, epochs=2, batch_size=8, verbose=0, callbacks=watching)
        found = architectures.outputs(model, batch).numpy()
        np.savez(f"{name}.{called}.npz", outputs=found, **{str(n): w.numpy() for n, w in enumerate(model.weights)})
        whole = name != "written" or library is tf_keras  # Keras 3 hides layers in lists from TensorFlow
        model.save_weights(f"{name}.{called}.weights.h5")
        if whole:
            tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(f"{name}.{called}.objects/ckpt")
            tf.train.Checkpoint(model).write(f"{name}.{called}.root")
        if name != "written":
            model.save(f"{name}.{called}.h5")
            model.save(f"{name}.{called}.keras")
            model.save(f"{name}.{called}.saved") if library is tf_keras else model.export(f"{name}.{called}.saved")
