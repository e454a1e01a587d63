"""What ``milepost audit --saver keras`` has to know about Keras: what a script's ``fit`` does, and its files."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import keras
from keras.src.legacy.saving import legacy_h5_format
from keras.src.saving import saving_lib

from milepost.errors import ScriptError
from milepost.keras import fitting
from milepost.keras.batches import tell_batches
from milepost.keras.data import AHEAD
from milepost.keras.variables import host, named

Values = dict[str, dict[str, Any]]
"""Host arrays by path, of the "model" and of the "optimizer"."""


class WatchedFit(NamedTuple):
    """A ``fit`` under way: its model, callbacks, and what is known of how it reads."""

    model: Any
    callbacks: list[Any]
    source: Any
    """The object with code of its own that data is read from, or None."""
    unsteady: tuple[str, ...]
    """The libraries whose random numbers threads may draw ahead of training."""

    def held(self) -> dict[str, Any]:
        """See `milepost.keras.watching.Holder`."""
        held = {type(one).__name__: one for one in self.callbacks}
        return held if self.source is None else {**held, type(self.source).__name__: self.source}


class Sees(Protocol):
    """What is told of every ``fit``, in this order."""

    def fit_began(self, fit: WatchedFit) -> None:
        """All callbacks have begun."""

    def epoch(self, epoch: int, *, ended: bool) -> None:
        """An epoch begins, or has ended, before callbacks are told."""

    def before_step(self, batch: int, values: Values) -> None:
        """The train function is called for a batch, counted from 0."""

    def handed(self, batch: Any) -> None:
        """It has read a batch, perhaps one of several."""

    def after_step(self, *, made: bool) -> None:
        """It has returned; or it raised, since there was no data left."""


def watch_fits(sees: Sees) -> None:
    """From now on `sees` is told of every ``fit``."""
    lists = keras.callbacks.CallbackList
    at = {"batch": 0}

    def begin(call: Callable[..., None], self: Any, logs: Any = None) -> None:
        call(self, logs)
        try:
            fit = fitting.find()
        except ScriptError:  # callbacks that a loop of the script's own calls
            return
        epochs, model = fit.epochs, self._model
        ahead = AHEAD if not fit.why_not and fitting.reads_ahead(epochs) else ()
        sees.fit_began(WatchedFit(model, fit.callbacks, None if fit.why_not else fitting.source(epochs), ahead))
        model.train_function = before = getattr(model.train_function, "unwatched", model.train_function)
        tell_batches(model, sees.handed)
        model.train_function = _watched(model, model.train_function, sees, at)
        model.train_function.unwatched = before  # for the next fit

    def epoch_begin(call: Callable[..., None], self: Any, epoch: int, logs: Any = None) -> None:
        sees.epoch(epoch, ended=False)
        call(self, epoch, logs)

    def epoch_end(call: Callable[..., None], self: Any, epoch: int, logs: Any = None) -> None:
        sees.epoch(epoch, ended=True)
        call(self, epoch, logs)

    def batch_begin(call: Callable[..., None], self: Any, batch: int, logs: Any = None) -> None:
        at["batch"] = batch
        call(self, batch, logs)

    around: Callable[..., None]
    for name, around in (
        ("on_train_begin", begin), ("on_epoch_begin", epoch_begin), ("on_epoch_end", epoch_end),
        ("on_train_batch_begin", batch_begin),
    ):  # fmt: skip
        setattr(lists, name, _method(around, getattr(lists, name)))


def _method(around: Callable[..., None], call: Callable[..., None]) -> Callable[..., None]:
    def method(self: Any, *arguments: Any, **options: Any) -> None:
        around(call, self, *arguments, **options)

    return functools.wraps(call)(method)


def _watched(model: Any, train_function: Callable[..., Any], sees: Sees, at: Mapping[str, int]) -> Callable[..., Any]:
    def function(*arguments: Any) -> Any:
        sees.before_step(at["batch"], values_of(model, arguments[0]))
        try:
            found = train_function(*arguments)
        except BaseException:
            sees.after_step(made=False)
            raise
        sees.after_step(made=True)
        return found

    return function


def values_of(model: Any, state: Any = None) -> Values:
    """What a model and its optimizer consist of. `state` is what the train function of JAX is given: during a step the
    variables are empty there."""
    optimizer = getattr(model, "optimizer", None)
    slots = list(optimizer.variables) if optimizer is not None else []
    inside: dict[int, Any] = {}
    if keras.backend.backend() == "jax" and state is not None:
        groups = (model.trainable_variables, model.non_trainable_variables, slots)
        inside = {id(one): value for group, values in zip(groups, state, strict=False)
                  for one, value in zip(group, values, strict=True)}  # fmt: skip
    return {
        name: {path: host(one) if id(one) not in inside else inside[id(one)] for path, one in named(variables).items()}
        for name, variables in (("model", model.variables), ("optimizer", slots))
    }


def watch_files(
    where: Callable[[Any, bool], Any], saved: Callable[[Any, Any], None], loaded: Callable[[Any], None]
) -> None:
    """Have Keras ask where a file is.

    Args:
        where: given what the script named, and whether it is written, says what to use.
        saved: is told of what was saved, as `values_of` gives it, and of the file it was written to.
        loaded: is told of a file that is about to be read.
    """
    import h5py

    def make_saver(original: Callable[..., Any]) -> Callable[..., Any]:
        def save(model: Any, filepath: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(filepath, (str, os.PathLike)):
                return original(model, filepath, *arguments, **options)
            where(filepath, True)  # Python's functions, and h5py, ask again
            found = original(model, filepath, *arguments, **options)
            saved(_saved(model), filepath)
            return found

        return functools.wraps(original)(save)

    def make_loader(original: Callable[..., Any]) -> Callable[..., Any]:
        def load(filepath: Any, *arguments: Any, **options: Any) -> Any:
            loaded(filepath)
            return original(filepath, *arguments, **options)

        return functools.wraps(original)(load)

    saving_lib.save_model = make_saver(saving_lib.save_model)
    saving_lib.save_weights_only = make_saver(saving_lib.save_weights_only)
    legacy_h5_format.save_model_to_hdf5 = make_saver(legacy_h5_format.save_model_to_hdf5)
    saving_lib.load_model = make_loader(saving_lib.load_model)
    open_file = h5py.File.__init__

    def opened(self: Any, name: Any, mode: str = "r", *arguments: Any, **options: Any) -> None:
        if isinstance(name, (str, bytes, os.PathLike)):
            if mode == "r":
                loaded(name)
            name = where(name, mode != "r")
        open_file(self, name, mode, *arguments, **options)

    h5py.File.__init__ = opened


def _saved(model: Any) -> Values:
    """What was saved of `model`: its optimizer too, once that has variables."""
    return {name: values for name, values in values_of(model).items() if values}


def watch_others(told: Callable[[str], None]) -> None:
    """From now on `told` is called with the name of what saves by the means of TensorFlow, which nobody can keep apart."""
    tf: Any = sys.modules["tensorflow"]
    for name in ("save", "write"):
        original = getattr(tf.train.Checkpoint, name)

        def save(self: Any, *arguments: Any, _original: Any = original, _name: str = name, **options: Any) -> Any:
            if not str(sys._getframe(1).f_globals.get("__name__")).startswith(("milepost.", "tensorflow.")):
                told(f"tf.train.Checkpoint.{_name}")
            return _original(self, *arguments, **options)

        setattr(tf.train.Checkpoint, name, functools.wraps(original)(save))
