"""A loop of one's own in TensorFlow with everything that has state: ``python custom_loop.py RUN STEPS [KILLED_AT]``.

It ends with a line of digests, one for each thing; a process that is to be killed is gone before it can save that step.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys

os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import keras
import numpy as np
import tensorflow as tf

import milepost

place, steps, killed_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0
tf.random.set_seed(11)
keras.utils.set_random_seed(11)


class Net(tf.Module):
    """A module with a Keras layer, variables in lists and dicts, and one that is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(4, activation="tanh")
        self.dense.build((None, 3))
        self.heads = [tf.Variable(tf.random.normal((4, 1)), name="head"), tf.Variable(tf.zeros(1), name="offset")]
        self.scales = {"in": tf.Variable(1.0), "out": tf.Variable(1.0, trainable=False)}
        self.tied = self.heads[0]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.scales["out"] * (self.dense(self.scales["in"] * x) @ self.heads[0] + self.heads[1])


class Hiding(keras.Model):
    """A model whose layers TensorFlow does not see, with random numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [keras.layers.Dense(4, activation="relu"), keras.layers.Dropout(0.3), keras.layers.Dense(1)]

    def call(self, x: tf.Tensor, training: bool = True) -> tf.Tensor:
        for block in self.blocks:
            x = block(x, training=training) if isinstance(block, keras.layers.Dropout) else block(x)
        return x


net, other = Net(), Hiding()
other(tf.zeros((1, 3)))
optimizer, second = keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.01, momentum=0.9)
trainable = [*net.heads, net.scales["in"], *[one.value for one in net.dense.trainable_variables]]
optimizer.build([*net.dense.trainable_variables])
second.build(other.trainable_variables)
average = tf.train.ExponentialMovingAverage(0.9)
average.apply(net.heads)
mean = keras.metrics.Mean()
noise = tf.random.Generator.from_seed(7)
x = np.random.default_rng(3).normal(size=(40, 3)).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).shuffle(16).batch(5)
own = iter(tf.data.Dataset.range(1000).shuffle(50))
velocity = tf.train.Checkpoint(of=[tf.Variable(tf.zeros_like(one)) for one in trainable])
count = tf.Variable(0, dtype=tf.int64)


@tf.function
def train_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    x += noise.normal(tf.shape(x), stddev=0.1)
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_mean((net(x) - y) ** 2)
        hidden = tf.reduce_mean((other(x, training=True) - y) ** 2)
    for variable, speed, gradient in zip(trainable, velocity.of, tape.gradient(loss, trainable), strict=True):
        speed.assign(0.9 * speed + gradient)
        variable.assign_sub(0.01 * speed)
    optimizer.apply(tape.gradient(loss, net.dense.trainable_variables))
    second.apply(tape.gradient(hidden, other.trainable_variables))
    average.apply(net.heads)
    mean.update_state(loss)
    count.assign_add(1)
    return loss


items = {
    "net": net, "other": tf.train.Checkpoint(model=other), "optimizer": optimizer, "second": tf.train.Checkpoint(inner=second),
    "average": average, "mean": mean, "noise": noise, "own": own, "velocity": velocity, "count": count,
}  # fmt: skip
seen = []
with milepost.Checkpointer(place, state=items, every=milepost.Every(steps=3), progress=False) as run:
    for _ in run.epochs(100):
        for images, labels in run.batches(data):
            loss = float(train_step(images, labels))
            seen.append([float(tf.reduce_sum(images)), int(next(own)), float(tf.random.normal(())), loss])
            run.step(loss=loss)
            if run.progress.step == killed_at:
                run.wait()
                os.kill(os.getpid(), signal.SIGKILL)
            if run.progress.step == steps:
                break
        if run.progress.step == steps:
            break

found = {
    "net": net.variables, "dense": net.dense.variables, "other": other.variables, "optimizer": optimizer.variables,
    "second": second.variables, "average": [average.average(one) for one in net.heads], "mean": mean.variables,
    "noise": [noise.state], "velocity": list(velocity.of), "count": [count],
}  # fmt: skip
digests = {
    name: hashlib.sha256(b"".join(np.asarray(one.numpy()).tobytes() for one in variables)).hexdigest()
    for name, variables in found.items()
}
print(json.dumps({"digests": digests, "seen": seen[-4:], "numbers": {name: len(one) for name, one in found.items()}}))
