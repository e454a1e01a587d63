"""The same models for Keras 3 and for tf_keras, and data for them."""

from __future__ import annotations

from typing import Any

import numpy as np


def classic(library: Any) -> Any:
    """The network of the tutorial on saving and loading, for images of MNIST's shape."""
    layers = library.layers
    model = library.Sequential(
        [layers.Input((784,)), layers.Dense(512, activation="relu"), layers.Dropout(0.2), layers.Dense(10)]
    )
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return model


def functional(library: Any) -> Any:
    """Branches whose layers have one shape, and a layer that is used twice."""
    layers = library.layers
    first, second = library.Input((6,)), library.Input((6,))
    shared = layers.Dense(6, activation="tanh")
    left, right = layers.Dense(6)(shared(first)), layers.Dense(6)(shared(second))
    return library.Model([first, second], layers.Dense(2)(layers.Concatenate()([left, right])))


def images(library: Any) -> Any:
    """Convolution and batch normalization."""
    layers = library.layers
    return library.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def nested(library: Any) -> Any:
    """Models in a model, one of them in two places."""
    layers = library.layers
    block = library.Sequential([layers.Input((5,)), layers.Dense(5, activation="relu"), layers.Dense(5)])
    head = library.Sequential([layers.Input((5,)), layers.Dense(5), library.Sequential([layers.Dense(4)])])
    given = library.Input((5,))
    return library.Model(given, head(layers.Add()([block(block(given)), layers.Dense(5)(given)])))


def written(library: Any) -> Any:
    """A class of one's own, with layers in a list, attention and a recurrent layer both ways."""
    layers = library.layers

    class Written(library.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = layers.Dense(3)
            self.rest = [layers.Dense(3), layers.Dense(3)]
            self.attention = layers.MultiHeadAttention(2, 3)
            self.both = layers.Bidirectional(layers.LSTM(2))
            self.norm = layers.LayerNormalization()

        def call(self, x: Any, training: bool | None = None) -> Any:
            x = self.first(x)
            x = self.rest[1](self.rest[0](self.attention(x, x)))
            return self.norm(self.both(x))

    return Written()


MODELS = {one.__name__: one for one in (classic, functional, images, nested, written)}
SHAPES = {"classic": (784,), "functional": (6,), "images": (8, 8, 3), "nested": (5,), "written": (4, 3)}


def data(name: str) -> Any:
    """A batch for the model `name`."""
    random = np.random.default_rng(1)
    batch = random.normal(size=(16, *SHAPES[name])).astype("float32")
    return [batch, -batch] if name == "functional" else batch


def outputs(model: Any, batch: Any) -> Any:
    """What the model makes of it; layers that behave otherwise in training do not."""
    return model(batch, training=False)
