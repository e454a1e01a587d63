"""A loop of one's own."""

import keras
import numpy as np
import tensorflow as tf

import milepost

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).shuffle(40, seed=1).batch(8)
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1)])
optimizer = keras.optimizers.Adam(0.01)


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
    slopes = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(slopes, model.trainable_variables, strict=True))
    return loss


optimizer.build(model.trainable_variables)
with milepost.Checkpointer("runs/loop", model=model, optimizer=optimizer, every=milepost.Every(steps=5)) as run:
    for _ in run.epochs(3):
        for x, y in run.batches(data):
            run.step(loss=train_step(x, y))
