"""Makes ``tensorflow/``: small checkpoints of objects and of names. Those that are here were made by TensorFlow 2.21."""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

out = Path(sys.argv[1])


class Small(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(np.arange(6, dtype=np.float32).reshape(2, 3))
        self.half = tf.Variable(tf.cast(tf.constant([1.5, -2.0]), tf.bfloat16))
        self.words = tf.Variable([["one", "two"], ["", "four"]])


model = Small()
tf.train.Checkpoint(model=model, step=tf.Variable(5, dtype=tf.int64)).write(str(out / "objects"))
tf.saved_model.save(
    model, str(out / "saved"), signatures=tf.function(lambda x: {"y": x @ model.kernel}).get_concrete_function(
        tf.TensorSpec((None, 2), tf.float32, name="x")
    ),
)  # fmt: skip
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    v1 = tf.compat.v1
    v1.get_variable("dense/bias", initializer=np.arange(3, dtype=np.float32))
    v1.get_variable("table", shape=(5, 2), partitioner=v1.fixed_size_partitioner(2), initializer=v1.ones_initializer())
    session.run(v1.global_variables_initializer())
    v1.train.Saver().save(session, str(out / "named"), write_meta_graph=False, write_state=False)
