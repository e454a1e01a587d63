"""A loop with a metric of Keras, which goes on from epoch to epoch."""

import keras
import numpy as np
import tensorflow as tf

import milepost

keras.utils.set_random_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).shuffle(40, seed=1).batch(8)
weight = tf.Variable(tf.zeros((5, 1)))
error = keras.metrics.Mean()


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((x @ weight - y) ** 2)
    weight.assign_sub(0.1 * tape.gradient(loss, weight))
    error.update_state(loss)
    return loss


with milepost.Checkpointer("runs/loop", weight=weight, mean=error, every=milepost.Every(steps=5)) as run:
    for _ in run.epochs(3):
        for x, y in run.batches(data):
            run.step(loss=train_step(x, y))
        run.epoch_end(error=float(error.result()))
