"""`Checkpoint`: the callback."""

from __future__ import annotations

import atexit
import inspect
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras

from milepost.errors import MilepostWarning, ScriptError
from milepost.folder import names
from milepost.folder.retention import Keep
from milepost.keras import fitting, named
from milepost.keras.last import Last
from milepost.keras.running import Running
from milepost.training.checkpointer import Checkpointer
from milepost.training.metrics import is_scalar
from milepost.training.policy import Every, Policy
from milepost.training.progress import Progress

_OPEN: dict[str, Checkpoint] = {}
"""Runs that are open in this process, by directory."""


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves a ``model.fit`` while it runs, and continues it after a restart: the same script again goes on where the last one was
    killed, in the middle of an epoch too, with the same numbers.

    It takes what `keras.callbacks.ModelCheckpoint` and `keras.callbacks.BackupAndRestore` take, in their meaning. The
    run directory is `filepath`, or `backup_dir`; where `filepath` names files (``training/cp-{epoch:04d}.weights.h5``) those
    are written too, and the run is beside them (``training/cp.milepost``).

    Args:
        filepath: the run directory; or a file to write, with ``{epoch}``, ``{batch}`` and any logged metric in its name:
            ``.weights.h5``, ``.keras``, ``.h5``, and ``.ckpt`` on the TensorFlow backend.
        monitor: the metric that says what is best.
        verbose: 1 says when a file is written.
        save_best_only: write the file only when `monitor` is better than ever before, restarts included.
        save_weights_only: write weights rather than the model.
        mode: whether a smaller ("min") or a larger ("max") value is better; "auto" asks Keras' metrics.
        save_freq: "epoch", or a number of batches: when to write the file and, without `every`, to save the run. False,
            with `backup_dir`: only on signals and at the end.
        initial_value_threshold: only what is better than this is best.
        options: `tf.train.CheckpointOptions`, for ``.ckpt``.
        backup_dir: the run directory; its content goes when training is finished, unless `delete_checkpoint` is False.
        double_checkpoint: keep the checkpoint before the newest, too.
        delete_checkpoint: remove the run when training is finished.
        every: when to save the run, see `milepost.Every`.
        keep: which of its checkpoints stay, see `milepost.Keep`.
        resume: "latest", "never", or a checkpoint, see `milepost.Checkpointer`.
        more: other options of `milepost.Checkpointer`.

    Raises:
        ScriptError: an argument cannot be what it is.
        MismatchError: when ``fit`` begins: the checkpoint does not fit the model.

    Example:
        >>> model.fit(x, y, epochs=8, validation_split=0.1,
        ...           callbacks=[milepost.keras.Checkpoint("runs/mnist", every=milepost.Every(steps=200))])
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str] | None = None,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: Literal["auto", "min", "max"] = "auto",
        save_freq: str | int | Literal[False] = "epoch",
        initial_value_threshold: float | None = None,
        options: Any = None,
        *,
        backup_dir: str | os.PathLike[str] | None = None,
        double_checkpoint: bool = False,
        delete_checkpoint: bool | None = None,
        every: Policy | Callable[[Progress], bool] | None = None,
        keep: Keep | None = None,
        resume: str = "latest",
        **more: Any,
    ) -> None:
        super().__init__()
        path = None if filepath is None else os.fspath(filepath)
        self.filepath = path if path is not None and named.is_named(path) else None
        self.directory = _directory(path, self.filepath, backup_dir)
        if mode not in ("auto", "min", "max"):
            raise ScriptError("mode= is auto, min or max", found=repr(mode))
        if save_freq is False and backup_dir is None:
            raise ScriptError("save_freq=False needs backup_dir=", expected="'epoch', or a number of batches")
        if self.filepath is not None:
            named.check(self.filepath, save_weights_only)
        unknown = more.keys() - (inspect.signature(Checkpointer).parameters.keys() - {"directory", "items", "state"})
        if unknown:
            raise ScriptError(
                f"Checkpoint has no argument {', '.join(sorted(unknown))}",
                hint="those of ModelCheckpoint, BackupAndRestore and milepost.Checkpointer",
            )
        self.monitor, self.mode, self.verbose, self.best = monitor, mode, verbose, initial_value_threshold
        self.save_best_only, self.save_weights_only, self._options = save_best_only, save_weights_only, options
        self._frequency = named.Frequency(save_freq or "epoch")
        self._writes = self.filepath is not None and save_freq is not False
        self._delete = backup_dir is not None if delete_checkpoint is None else delete_checkpoint
        if every is None and save_freq is not False:
            every = Every(epochs=1) if save_freq == "epoch" else Every(steps=int(save_freq))
        if keep is None and (backup_dir is not None or double_checkpoint):
            keep = Keep(last=2 if double_checkpoint else 1)
        self._run_options = {"every": every, "keep": keep, "resume": resume, "progress": False, **more}
        self._running: Running | None = None
        self._epoch = 0
        _warn_of_idle(
            {
                "verbose": verbose != 0 and self.filepath is None,
                "save_best_only": save_best_only and self.filepath is None,
                "save_weights_only": save_weights_only and self.filepath is None,
                "monitor": monitor != "val_loss" and not save_best_only,
                "mode": mode != "auto" and not save_best_only,
                "initial_value_threshold": initial_value_threshold is not None and not save_best_only,
                "options": options is not None and not (path or "").endswith(".ckpt"),
            }
        )

    def wait(self) -> None:
        """Block until all that was saved is durable; for callbacks of your own, and tests.

        Raises:
            RunFenced: a newer attempt has taken over.
            SaveFailedError: a save failed and ``on_error="raise"``.
        """
        if self._running is not None:
            self._running.wait()

    # -- what Keras calls, in the place of the list where the script put it ------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        """Stands `Last` behind all others: what is done now, before they have begun, would be undone by them."""
        self._fit = fitting.find()
        self._fit.callbacks.append(Last(self))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Nothing; but without it Keras would call `Last` in a thread, while the next batch is being trained."""

    # -- what Last calls -----------------------------------------------------------------------------------------------------------

    def last_train_begin(self) -> None:
        """All callbacks have begun."""
        fit, model = self._fit, self.model
        del self._fit
        key = os.path.realpath(self.directory)
        if key in _OPEN:  # a fit that an exception ended: nobody told its callbacks
            _OPEN[key].abandon(RuntimeError("fit was left by an exception"))
        self._running = Running(fit, model, int(self.params["epochs"]), self.directory, self._run_options)
        _OPEN[key] = self

    def last_epoch_begin(self, epoch: int) -> None:
        """All callbacks know that an epoch begins."""
        self._epoch = epoch
        self._call(lambda running: running.epoch_begins(epoch))

    def last_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:
        """All callbacks know that a batch is done."""

        def end(running: Running) -> None:
            if not running.standing_in and self._writes and self._frequency.after_batch(batch + 1):
                self._write(batch, logs)
            running.batch_ends(batch, logs)

        self._call(end)

    def last_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """All callbacks know that an epoch is done."""

        def end(running: Running) -> None:
            if self._writes and self._frequency.at_epoch_end:
                self._write(None, logs)
            running.epoch_ends(epoch, logs)

        self._call(end)

    def last_validates(self) -> None:
        """All callbacks know how far validation is."""
        self._call(lambda running: running.validating())

    def last_train_end(self) -> None:
        """All callbacks know that training is finished."""
        running, self._running = self._running, None
        _OPEN.pop(os.path.realpath(self.directory), None)
        if running is None:
            return
        running.close()
        if self._delete:
            _remove(self.directory)

    def _call(self, what: Callable[[Running], None]) -> None:
        if self._running is None:
            return
        try:
            what(self._running)
        except BaseException as problem:
            self.abandon(problem)
            raise

    def abandon(self, problem: BaseException) -> None:
        """Training does not come to its end: let go of the run."""
        running, self._running = self._running, None
        _OPEN.pop(os.path.realpath(self.directory), None)
        if running is not None:
            running.abandon(problem)

    # -- files beside the run ------------------------------------------------------------------------------------------------------

    def _write(self, batch: int | None, logs: Mapping[str, Any]) -> None:
        assert self.filepath is not None
        path = named.fill(self.filepath, self._epoch + 1, None if batch is None else batch + 1, logs)
        if not self._is_due(path, logs):
            return
        named.write(self.model, path, weights_only=self.save_weights_only, options=self._options)

    def _is_due(self, path: str, logs: Mapping[str, Any]) -> bool:
        if not self.save_best_only:
            self._say(f"saving model to {path}")
            return True
        value = logs.get(self.monitor)
        if value is None or not is_scalar(value):
            what = "not among the metrics" if value is None else f"no single number but {value!r}"
            _warn(f"{self.monitor} is {what} ({', '.join(logs)}): which model is best is not known")
            return True
        before = "None" if self.best is None else f"{self.best:.5f}"
        better = named.direction(self.monitor, self.mode, self.model)
        if math.isnan(value) or not (self.best is None or better(value, self.best)):
            self._say(f"{self.monitor} did not improve from {before}")
            return False
        self._say(f"{self.monitor} improved from {before} to {value:.5f}, saving model to {path}")
        self.best = float(value)
        return True

    def _say(self, text: str) -> None:
        if self.verbose > 0:
            sys.stdout.write(f"\nEpoch {self._epoch + 1}: {text}\n")
            sys.stdout.flush()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the callback itself."""
        return {"best": self.best, "since": self._frequency.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.best = state["best"]
        self._frequency.put_back(state["since"])


def _directory(path: str | None, pattern: str | None, backup_dir: str | os.PathLike[str] | None) -> str:
    if backup_dir is not None:
        if path is not None and pattern is None:
            raise ScriptError("filepath= and backup_dir= are both run directories", hint="give one of them")
        path = os.fspath(backup_dir)
    elif pattern is not None:
        return named.run_beside(pattern)
    if not path:
        raise ScriptError("Checkpoint needs a run directory", hint="Checkpoint('runs/mnist')")
    return path


def _remove(directory: str) -> None:
    """Remove a run, and nothing else that may be in its folder."""
    for name in os.listdir(directory):
        if name in (names.RUN, "attempts", "tags", "latest", "best") or names.parse_step(name) is not None:
            path = os.path.join(directory, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.remove(path)
    if not os.listdir(directory):
        os.rmdir(directory)


def _warn_of_idle(idle: Mapping[str, bool]) -> None:
    names = [f"{name}=" for name, is_idle in idle.items() if is_idle]
    if names:
        _warn(f"without effect: {', '.join(names)} (only a file beside the run, or the choice of the best, needs it)")


def _warn(text: str) -> None:
    warnings.warn(text, MilepostWarning, stacklevel=3)


@atexit.register
def _close_at_exit() -> None:
    for one in list(_OPEN.values()):
        one.abandon(RuntimeError("the process ended"))
