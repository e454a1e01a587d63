"""Checkpoints of every kind that TensorFlow and Keras write, and beside each, as NAME.npz, what TensorFlow itself reads from it."""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf
import tf_keras

out = Path(sys.argv[1])
rng = np.random.default_rng(0)


def remember(prefix: str) -> None:
    """What TensorFlow reads, by key; bfloat16 and the like as bytes."""
    reader = tf.train.load_checkpoint(str(out / prefix))
    found = {}
    for key in reader.get_variable_to_shape_map():
        value = np.asarray(reader.get_tensor(key))
        if value.dtype.kind in "OS" or key == "_CHECKPOINTABLE_OBJECT_GRAPH":
            continue
        if value.dtype.isbuiltin != 1:
            value = value.view(np.uint8)
        found[key] = value
    np.savez(out / (prefix.replace("/", "~") + ".npz"), **{key.replace("/", "|"): v for key, v in found.items()})


def trained(library, **compiled):
    model = library.Sequential(
        [library.layers.Input((4,)), library.layers.Dense(3, name="first"), library.layers.Dense(2, name="last")]
    )
    model.compile(loss="mse", **compiled)
    model.fit(rng.normal(size=(8, 4)), rng.normal(size=(8, 2)), epochs=2, verbose=0)
    return model


# Keras 3, object-based, through a manager: three saves, of which two are kept.
model = trained(keras, optimizer="adam")
step = tf.Variable(0, dtype=tf.int64)
checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer, step=step)
manager = tf.train.CheckpointManager(checkpoint, str(out / "managed"), max_to_keep=2)
for _ in range(3):
    step.assign_add(10)
    manager.save()
remember("managed/ckpt-3")
np.savez(
    out / "managed-weights.npz",
    kernel=model.layers[0].kernel.numpy(),
    momentum=model.optimizer._momentums[0].numpy(),
)

# Keras 2: an optimizer of today and one of the old kind with slots, weights in the TF format, a SavedModel.
model = trained(tf_keras, optimizer="adam")
model.save_weights(str(out / "keras2" / "weights"))
remember("keras2/weights")
model.save(str(out / "saved"))
remember("saved/variables/variables")
model = trained(tf_keras, optimizer=tf_keras.optimizers.legacy.Adam())
tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(out / "slots" / "ck"))
remember("slots/ck")


# Every element type, strings, odd names.
class Everything(tf.Module):
    def __init__(self):
        super().__init__()
        names = (
            "float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 complex64 complex128"
        )
        self.numbers = {
            name: tf.Variable(rng.integers(0, 100, (3, 5)).astype(getattr(ml_dtypes, name, name)))
            for name in names.split()
        }
        self.float8 = [
            tf.Variable(tf.cast(tf.constant(rng.normal(size=(7,)), tf.float32), kind))
            for kind in (tf.dtypes.experimental.float8_e5m2, tf.dtypes.experimental.float8_e4m3fn)
        ]
        self.int4 = tf.Variable(tf.cast(tf.range(-8, 8), tf.dtypes.experimental.int4))
        self.truth = tf.Variable([True, False, True])
        self.text = tf.Variable([["one", "two", "three"], ["", "ü", "a" * 300]])
        self.raw = tf.Variable(b"\xff\xfe\0")
        self.words = tf.Variable("some words")
        self.empty = tf.Variable(np.zeros((0, 5), np.float32))
        self.large = tf.Variable(rng.normal(size=(300, 1000)).astype(np.float32))


everything = Everything()
odd = tf.train.Checkpoint(everything=everything, **{"a/b": tf.Variable(1.0), "c.d": tf.Variable(2.0)})
odd.write(str(out / "types" / "all"))
remember("types/all")

# tf.train.Saver: names rather than objects, variables in slices, two data files.
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    v1 = tf.compat.v1
    v1.get_variable("dense/kernel", initializer=rng.normal(size=(4, 3)).astype(np.float32))
    v1.get_variable("dense/bias", initializer=np.zeros(3, np.float32))
    parts = v1.get_variable(
        "embedding/table", shape=(103, 7), partitioner=tf.compat.v1.fixed_size_partitioner(3),
        initializer=v1.random_normal_initializer(seed=1),
    )  # fmt: skip
    with tf.device("/cpu:0"):
        v1.get_variable("wide", shape=(2, 8192), partitioner=v1.fixed_size_partitioner(4, axis=1),
                        initializer=v1.random_normal_initializer(seed=2))  # fmt: skip
    v1.train.create_global_step()
    session.run(v1.global_variables_initializer())
    (out / "named").mkdir()
    v1.train.Saver().save(session, str(out / "named" / "model.ckpt"), global_step=1200)
remember("named/model.ckpt-1200")

# Several data files: one for each device, and then merged without copying.
(out / "shards").mkdir()
shards = [str(out / "shards" / f"part-{count}") for count in range(2)]
for count, prefix in enumerate(shards):
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=[f"t{count}", f"u{count}"], shape_and_slices=["", ""],
        tensors=[tf.constant(rng.normal(size=(10, 3))), tf.constant(np.arange(count, 50 + count))],
    )  # fmt: skip
tf.raw_ops.MergeV2Checkpoints(
    checkpoint_prefixes=shards, destination_prefix=str(out / "shards" / "whole"), delete_old_dirs=False
)
remember("shards/whole")

# The old format.
(out / "old").mkdir()
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    tf.compat.v1.get_variable("w", initializer=np.ones(3, np.float32))
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1).save(
        session, str(out / "old" / "model.ckpt")
    )


# A SavedModel of functions, with nothing trained.
class Functions(tf.Module):
    @tf.function(
        input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x"), tf.TensorSpec(None, tf.string, name="s")]
    )
    def serve(self, x, s):
        return {"double": 2 * x, "same": s}


functions = Functions()
tf.saved_model.save(functions, str(out / "functions"), signatures={"serve": functions.serve})
