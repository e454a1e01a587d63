"""The writer of TensorFlow checkpoints for `milepost.ops.export`: what ``tf.train.Checkpoint(...).restore`` takes.

Such a checkpoint holds a graph of the objects it is of, so it can be made only of live objects. TensorFlow writes them as they are;
then the values of the source take the place of theirs, and nothing else changes. The objects stay as they were.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy.typing as npt
import tensorflow as tf

from milepost.core.source import TensorSource
from milepost.errors import DamagedError, ScriptError, StepError, StorageError
from milepost.formats.tf_bundle import Bundle
from milepost.ops import appearing
from milepost.ops.export import Exported
from milepost.ops.holding import part_of
from milepost.ops.refs import open as open_source
from milepost.ops.transfer import chosen
from milepost.tensorflow.bundle import enter, publish
from milepost.tensorflow.filling import Filling, fill
from milepost.tensorflow.graph import saved_variables
from milepost.tensorflow.items import Trackable

COUNTER, COUNTER_KEY = "save_counter", "save_counter/.ATTRIBUTES/VARIABLE_VALUE"
"""What ``tf.train.Checkpoint.restore`` expects, and `tf.train.CheckpointManager` numbers by."""


class _Choice(NamedTuple):
    """What of a source is written: see `export`."""

    rename: Mapping[str, str] | None
    only: str | Iterable[str] | None
    leave_out: str | Iterable[str] | None
    strict: bool


def export(
    source: TensorSource,
    destination: str,
    *,
    model: Any = None,
    rename: Mapping[str, str] | None = None,
    only: str | Iterable[str] | None = None,
    leave_out: str | Iterable[str] | None = None,
    strict: bool = True,
) -> Exported:
    """Write `source` as a checkpoint that ``tf.train.Checkpoint(**model).restore(destination).assert_consumed()`` accepts, and make
    it the latest of its folder.

    Args:
        source: the checkpoint.
        destination: what the names of its files begin with, such as ``training/ckpt-8``; the number is the one it has for
            `tf.train.CheckpointManager`.
        model: the live objects, which stay as they are: a dict by the names that `tf.train.Checkpoint` has them under; a
            `tf.train.Checkpoint`; or one object, which is called ``model`` (a compiled Keras model with its ``optimizer``, if the
            source has one). Each is filled from the folder of its name in the source, if there is one.
        rename: old to new: what the source calls otherwise, see `milepost.transfer`.
        only: these paths of the source alone, and what is below them; ``*`` and ``?`` stand for any characters.
        leave_out: not these.
        strict: every weight and all optimizer state of the objects must be in the source, and nothing more. If False, what is
            not there is written as it is in the objects. Metrics and random state may always be missing.

    Raises:
        ScriptError: no objects, or none that TensorFlow saves whole.
        MismatchError: objects and source do not fit together.
        besides as `milepost.export`.
    """
    _refuse_if_there(destination)
    checkpoint, objects = _objects(model, source)
    with appearing.workspace(destination) as work:
        done = _write(source, work, checkpoint, objects, _number(destination), _Choice(rename, only, leave_out, strict))
        _refuse_if_there(destination)
        publish(f"{work}/made", destination)
    enter(destination)
    return Exported(destination, "tensorflow", 1, len(done.values), done.nbytes, done.left_out)


def export_run(
    sources: Iterable[TensorSource],
    destination: str,
    *,
    model: Any = None,
    rename: Mapping[str, str] | None = None,
    only: str | Iterable[str] | None = None,
    leave_out: str | Iterable[str] | None = None,
    strict: bool = True,
) -> Exported:
    """Write `sources` as ``ckpt-STEP`` of one folder, as a `tf.train.CheckpointManager` has them; see `export`.

    Raises:
        StepError: one has no step, or the step of an earlier one.
        besides as `export`.
    """
    choice = _Choice(rename, only, leave_out, strict)
    found: list[Filling] = []
    with appearing.workspace(destination) as work:
        run = f"{work}/run"
        os.mkdir(run)
        for source in sources:
            step = source.metadata.get("step")
            prefix = f"{run}/ckpt-{step}"
            if type(step) is not int or os.path.exists(f"{prefix}.index"):
                raise StepError("each checkpoint of a run has a step of its own", where=source.where, found=repr(step))
            checkpoint, objects = _objects(model, source)
            found.append(_write(source, work, checkpoint, objects, step, choice))
            publish(f"{work}/made", prefix)
            enter(prefix)
        appearing.publish(run, destination)
    left_out = tuple(dict.fromkeys(path for one in found for path in one.left_out))
    tensors = sum(len(one.values) for one in found)
    return Exported(destination, "tensorflow", len(found), tensors, sum(one.nbytes for one in found), left_out)


def _refuse_if_there(destination: str) -> None:
    if os.path.lexists(f"{destination}.index"):
        raise StorageError("a checkpoint is at the destination already", where=destination, hint="name a new one")


def _number(destination: str) -> int:
    numbers: list[str] = re.findall(r"\d{1,18}", os.path.basename(destination))
    return int(numbers[-1]) if numbers else 1


def _objects(model: Any, source: TensorSource) -> tuple[Any, dict[str, Any]]:
    """The `tf.train.Checkpoint` to write, and what is in it by name ("" for an object that is its root)."""
    if model is None:
        raise ScriptError(
            "a TensorFlow checkpoint is one of objects", where="model=",
            hint='give them: model={"model": model, "optimizer": optimizer}; on the command line --model MODULE:FUNCTION',
        )  # fmt: skip
    if isinstance(model, tf.train.Checkpoint):
        children = tf.train.TrackableView(model).children(model)
        return model, {"" if name == "root" else name: one for name, one in children.items() if name != COUNTER}
    given = dict(model) if isinstance(model, Mapping) and not isinstance(model, Trackable) else {"model": model}
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, Trackable) and any(part_of(path, source) == "optimizer" for path in source.specs):
        given["optimizer"] = optimizer
    for one in given.values():
        of_it = getattr(one, "optimizer", None)
        if of_it is not None and any(of_it is other for other in given.values()) and not getattr(of_it, "built", True):
            of_it.build(one.trainable_variables)
    try:
        checkpoint = tf.train.Checkpoint(**given)
    except (ValueError, TypeError) as error:
        raise ScriptError(
            "TensorFlow cannot save these objects", where="model=",
            expected="tf.Module, tf.Variable, Keras on its TensorFlow backend",
            found=", ".join(f"{name}: {type(one).__name__}" for name, one in given.items()),
        ) from error  # fmt: skip
    return checkpoint, {name: getattr(checkpoint, name) for name in given}


def _write(
    source: TensorSource, work: str, checkpoint: Any, objects: Mapping[str, Any], number: int, choice: _Choice
) -> Filling:
    """Write the checkpoint ``WORK/made``, and compare it with what was to be written."""
    tensors = chosen(source, rename=choice.rename, include=choice.only, exclude=choice.leave_out)
    counter = checkpoint.save_counter  # makes it
    objects_as_they_are = f"{work}/objects"
    checkpoint.write(objects_as_they_are)
    saved = [one for one in saved_variables(checkpoint, objects_as_they_are) if one.variable is not counter]
    filled = fill(source, tensors, objects, saved, strict=choice.strict)
    _save(objects_as_they_are, f"{work}/made", filled.values | {COUNTER_KEY: number})
    _compare(f"{work}/made", filled.values)
    return filled


def _save(like: str, made: str, values: Mapping[str, Any]) -> None:
    """Write the checkpoint `made`: that of `like`, with other values."""
    kinds = tf.train.load_checkpoint(like).get_variable_to_dtype_map()
    keys = sorted(kinds)
    with tf.device("CPU"):
        tensors = [
            tf.convert_to_tensor(values[key], kinds[key])
            if key in values
            else tf.raw_ops.RestoreV2(prefix=like, tensor_names=[key], shape_and_slices=[""], dtypes=[kinds[key]])[0]
            for key in keys
        ]
        tf.raw_ops.SaveV2(prefix=made, tensor_names=keys, shape_and_slices=[""] * len(keys), tensors=tensors)


def _compare(made: str, values: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raises `DamagedError` if the file `made`, read by our own reader, differs from `values`."""
    found = open_source(made)
    assert isinstance(found, Bundle)
    paths = {key: path for path, key in found.stored_as.items()}
    for key, value in values.items():
        if found[paths[key]].tobytes() != value.tobytes():
            raise DamagedError("what was written is not what was to be written", where=paths[key])
