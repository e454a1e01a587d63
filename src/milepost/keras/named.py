"""Files beside the run, as `keras.callbacks.ModelCheckpoint` writes them, so that what reads those goes on to work."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from milepost.errors import MetricError, MilepostWarning, ScriptError

SUFFIXES = (".weights.h5", ".keras", ".h5", ".ckpt")


def is_named(path: str) -> bool:
    """Whether `path` is the name, or the pattern for names, of a file to write rather than a run directory."""
    return path.endswith(SUFFIXES) or "{" in path


def run_beside(path: str) -> str:
    """The run directory that belongs to the file pattern `path`.

    Example:
        >>> run_beside("training/cp-{epoch:04d}.ckpt")
        'training/cp.milepost'
    """
    folder, name = os.path.split(path)
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    before = name.removesuffix(suffix).partition("{")[0].rstrip("-_. ")
    folder = folder.partition("{")[0]
    return os.path.join(folder, f"{before or 'run'}.milepost")


def check(path: str, weights_only: bool) -> None:
    """Raises `ScriptError` where Keras could not write a file of that name."""
    if path.endswith(".ckpt"):
        if keras.backend.backend() != "tensorflow":
            raise ScriptError(
                "only the TensorFlow backend writes .ckpt files",
                where="filepath=",
                found=path,
                hint="name it .weights.h5: filepath=" + repr(path.removesuffix(".ckpt") + ".weights.h5"),
            )
        return
    allowed = (".weights.h5",) if weights_only else (".keras", ".h5")
    if not path.endswith(allowed):
        raise ScriptError(
            f"with save_weights_only={weights_only} the file has another suffix",
            where="filepath=",
            expected=" or ".join(allowed),
            found=path,
        )


def fill(pattern: str, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> str:
    """The name of a file: `epoch` and `batch` count from 1."""
    fields: dict[str, Any] = {**({} if batch is None else {"batch": batch}), **logs}
    try:
        return pattern.format(**{**fields, "epoch": epoch})
    except KeyError as error:
        raise MetricError(
            f"the file pattern has {error.args[0]!r}, which is not known when the file is written",
            where=f"filepath={pattern!r}",
            expected=", ".join(["epoch", *fields]),
        ) from None


def write(model: Any, path: str, *, weights_only: bool, options: Any = None) -> None:
    """Write `model`, or its weights, to `path`, which has the old content or the new at any moment."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    if os.path.isdir(path):
        raise ScriptError("the file to write is a folder", where="filepath=", found=path, hint="give it another name")
    if path.endswith(".ckpt"):
        _write_ckpt(model, path, options)
        return
    suffix = next(suffix for suffix in SUFFIXES if path.endswith(suffix))
    beside = os.path.join(folder, f".{secrets.token_hex(4)}{suffix}")
    try:
        (model.save_weights if weights_only else model.save)(beside, overwrite=True)
        _sync(beside)
        os.replace(beside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(beside)
    _sync(folder)


def _write_ckpt(model: Any, path: str, options: Any) -> None:
    """As tf.keras did: the model is the root of the object graph."""
    import tensorflow as tf

    from milepost.tensorflow.bundle import enter, publish
    from milepost.tensorflow.graph import saved_variables

    folder = os.path.dirname(path) or "."
    with tempfile.TemporaryDirectory(prefix=".milepost-", dir=folder) as beside:
        checkpoint = tf.train.Checkpoint(model)
        checkpoint.write(f"{beside}/made", options=options)
        saved = {id(one.variable) for one in saved_variables(checkpoint, f"{beside}/made")}
        publish(f"{beside}/made", path)
    enter(path)
    if lost := [one.path for one in model.weights if id(one.value) not in saved]:
        warnings.warn(
            f"{path} is not whole: TensorFlow does not save {len(lost)} of the model's weights, {lost[0]} among them, since "
            "Keras 3 hides layers in lists and dicts from it; the run has them, and so would .weights.h5",
            MilepostWarning,
            stacklevel=2,
        )


def _sync(path: str | os.PathLike[str]) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class Frequency:
    """Whether a file is due, as ``save_freq`` says: at the end of each epoch, or every so many batches, counted across epochs."""

    def __init__(self, save_freq: str | int) -> None:
        if save_freq != "epoch" and (type(save_freq) is not int or save_freq < 1):
            raise ScriptError(
                "save_freq= cannot be that", expected="'epoch', or a number of batches", found=repr(save_freq)
            )
        self._freq = save_freq
        self.since = self._seen = 0

    def after_batch(self, done: int) -> bool:
        """Whether it is after `done` batches of an epoch."""
        self.since += done if done <= self._seen else done - self._seen
        self._seen = done
        if self._freq == "epoch" or self.since < int(self._freq):
            return False
        self.since = 0
        return True

    @property
    def at_epoch_end(self) -> bool:
        """Whether it is at the end of an epoch."""
        return self._freq == "epoch"

    def state(self) -> list[int]:
        """What a checkpoint keeps."""
        return [self.since, self._seen]

    def put_back(self, state: list[int]) -> None:
        """Put back what `state` gave."""
        self.since, self._seen = state


def direction(monitor: str, mode: str, model: Any) -> Callable[[float, float], bool]:
    """Which of two values of `monitor` is better: ``better(new, old)``. NaN is never better.

    Raises:
        MetricError: `mode` is "auto" and nobody knows.
    """
    name = monitor.removeprefix("val_")
    if mode == "auto":
        if name == "loss":
            mode = "min"
        else:
            known = {one.name: getattr(one, "_direction", None) for one in _metrics(model)}
            mode = {"up": "max", "down": "min"}.get(known.get(name) or "", "auto")
    if mode == "auto":
        raise MetricError(
            f"is a smaller or a larger {monitor!r} better?", where="monitor=", hint="say it: mode='min' or mode='max'"
        )
    return (lambda new, old: new < old) if mode == "min" else (lambda new, old: new > old)


def _metrics(model: Any) -> list[Any]:
    found = []
    for one in model.metrics:
        found += [one, *getattr(one, "metrics", ())]
    return found
