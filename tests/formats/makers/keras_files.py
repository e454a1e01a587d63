"""Models saved by Keras 3 and by Keras 2 in each of their formats, and the weights in the order Keras lists them."""

import json
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tf_keras

out = Path(sys.argv[1])
rng = np.random.default_rng(0)


def trained(library, **more):
    layers = library.layers
    model = library.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(3, name="first", **more),
            layers.BatchNormalization(),
            layers.Dense(2, name="last"),
        ]
    )
    model.compile(optimizer="adam", loss="mse")
    model.fit(rng.normal(size=(8, 4)), rng.normal(size=(8, 2)), epochs=2, verbose=0)
    return model


def remember(name, arrays):
    np.savez(out / name, *[np.asarray(array) for array in arrays])


def remember_layers(name, model):
    np.savez(
        out / name,
        **{f"{layer.name}/{at}": value for layer in model.layers for at, value in enumerate(layer.get_weights())},
    )


model = trained(keras)
remember_layers("three-layers.npz", model)
model.save(out / "three.keras")
model.save_weights(out / "three.weights.h5")
model.save(out / "three.h5")
remember("three.npz", [weight.numpy() for weight in [*model.weights, *model.optimizer.variables]])
model.save_weights(out / "parts.weights.json", max_shard_size=0.0000001)
half = trained(keras, dtype="bfloat16")
half.save(out / "half.keras")
remember("half.npz", [np.asarray(half.layers[0].kernel.value).astype(np.float32)])


# What the numbered variables of optimizers are, by their own names: of every optimizer that numbers them in one way.
variables = {}
chosen = {
    name: getattr(keras.optimizers, name)
    for name in ["Adam", "AdamW", "Nadam", "Lamb", "Adamax", "Adadelta", "Adagrad", "Lion", "RMSprop"]
}
chosen |= {
    "SGD": lambda: keras.optimizers.SGD(momentum=0.9, use_ema=True),
    "Scheduled": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 10)),
    "plain": keras.optimizers.SGD,
    "Hats": lambda: keras.optimizers.Adam(amsgrad=True),
}
for name, optimizer in chosen.items():
    keras.utils.clear_session()
    layers = keras.layers
    frozen = layers.Dense(4, name="frozen", trainable=False)
    block = keras.Sequential(
        [layers.Input((6, 3)), layers.Conv1D(3, 2, use_bias=False, name="c"), layers.LSTM(4, name="l")], name="b"
    )
    tail = [
        frozen,
        layers.Dropout(0.5, seed=1),
        layers.BatchNormalization(scale=False, name="n"),
        layers.Dense(2, name="d"),
    ]
    model = keras.Sequential([layers.Input((6,)), layers.Embedding(5, 3, name="e"), block, *tail])
    model.compile(optimizer())
    model.optimizer.build(model.trainable_variables)
    model.save(out / f"{name}.optimizer.keras")
    variables[name] = [variable.path for variable in model.optimizer.variables]
(out / "variables.json").write_text(json.dumps(variables))

model = trained(tf_keras)
remember_layers("two-layers.npz", model)
model.save(out / "two.h5")
model.save_weights(out / "two.weights.hdf5")
model.save(out / "two.keras")
remember("two.npz", [*model.get_weights(), *[variable.numpy() for variable in model.optimizer.variables]])

inner = keras.Sequential([keras.layers.Dense(4, name="a"), keras.layers.Dense(4, name="b")], name="inner")
outer = keras.Sequential([keras.layers.Input((4,)), inner, keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(2)])
outer.save(out / "nested.keras")
remember("nested.npz", [*inner.layers[0].get_weights(), *inner.layers[1].get_weights()])
outer.quantize("int8")
outer.save(out / "int8.keras")

outer = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2, name="eight")])
outer.quantize("float8")
outer.save(out / "float8.keras")
remember("float8.npz", [weight.numpy() for weight in outer.weights])
