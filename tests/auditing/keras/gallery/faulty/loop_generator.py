"""A loop that adds noise to its batches, over modules of TensorFlow. Forgotten: the generator of the noise."""

import numpy as np
import tensorflow as tf

import milepost

tf.random.set_seed(7)
noise = tf.random.Generator.from_seed(3)
x = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).shuffle(40, seed=1).batch(8)


class Linear(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = tf.Variable(tf.zeros((5, 1))), tf.Variable(tf.zeros(1))

    @tf.function
    def train(self, x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ self.weight + self.bias - y) ** 2)
        slopes = tape.gradient(loss, self.trainable_variables)
        for variable, slope in zip(self.trainable_variables, slopes, strict=True):
            variable.assign_sub(0.1 * slope)
        return loss


model = Linear()
with milepost.Checkpointer("runs/loop", model=model, every=milepost.Every(steps=5)) as run:
    for _ in run.epochs(3):
        for x, y in run.batches(data):
            run.step(loss=model.train(x + noise.normal((8, 5), stddev=0.1), y))
