"""A loop over an iterator of tf.data, which is saved."""

import numpy as np
import tensorflow as tf

import milepost

tf.random.set_seed(7)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).shuffle(40, seed=1).repeat().batch(8)
batches = iter(data)
weight = tf.Variable(tf.zeros((5, 1)))


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((x @ weight - y) ** 2)
    weight.assign_sub(0.1 * tape.gradient(loss, weight))
    return loss


with milepost.Checkpointer("runs/loop", weight=weight, batches=batches, every=milepost.Every(steps=5)) as run:
    for _ in run.steps(15):
        run.step(loss=train_step(*next(batches)))
