"""One ``model.fit`` as an attempt of a run: what is saved when, and going on where the last attempt stopped.

A restart puts the state back after every callback's ``on_train_begin``. In the middle of an epoch it does so again once
Keras stands at the batch that was done last: callbacks are told of the epoch's beginning a second time, and what they
change thereby does not count. That batch is handed out with a train function that does nothing but return the logs of
then, since without any batch (the last one may be done) Keras would have no logs for the epoch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from milepost.errors import MilepostWarning, Mismatch, NotFoundError
from milepost.folder.lineage import lineage, newest_attempt, read_records
from milepost.folder.run import RunFolder
from milepost.keras import fitting
from milepost.keras.batches import UnseenBatch, tell_batches
from milepost.keras.data import AHEAD, Data
from milepost.keras.items import VariablesItem, synced
from milepost.keras.last import Last
from milepost.keras.others import Others
from milepost.keras.variables import assign, host
from milepost.storage.local import LocalStorage
from milepost.training.hosted import HostedRun
from milepost.training.items import Item, Loaded
from milepost.training.metrics import is_scalar
from milepost.training.policy import Every
from milepost.training.progress import Phase

ITEMS = ("model", "optimizer", "metrics", "fit")


class FitItem:
    """What ``fit`` itself is in the middle of: epoch, batch, data, callbacks."""

    name, replaced, borrows = "fit", False, False

    def __init__(self, running: Running) -> None:
        self.object = running
        self.loaded: Mapping[str, Any] | None = None

    def capture(self) -> Any:
        return self.object.capture()

    def compared(self) -> Any:
        """What `milepost audit` compares."""
        return self.object.fit_state()

    def unsteady(self) -> tuple[str, ...]:
        """The libraries whose random state is, at any moment, as far on as threads have read ahead: it is not compared."""
        return self.object.read_ahead()

    def trained(self, tensor: Any) -> bool:
        return False

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        return []

    def restore(self, saved: Loaded) -> None:
        self.loaded = saved.value()


class Running:
    """A ``fit`` under way. Its methods are called after those of all callbacks.

    Args:
        fit: what was found of it.
        model: the model that is trained.
        epochs: up to which epoch.
        directory: of the run.
        options: of `milepost.Checkpointer`.
    """

    def __init__(self, fit: fitting.Fit, model: Any, epochs: int, directory: str, options: Mapping[str, Any]) -> None:
        self.model, self._epochs, self._fit_epochs = model, epochs, fit.epochs
        self._within = not fit.why_not
        """Whether there can be positions within an epoch."""
        self._epoch = self._batch = 0
        self._ended = True
        """Whether the place is between two epochs."""
        self._logs: Mapping[str, Any] = {}
        self._again: list[tuple[Any, Any]] = []
        self._train_function: Any = None
        self._others = Others([one for one in fit.callbacks if not isinstance(one, Last)])
        self._data = Data(fit.epochs, self._stand_in) if self._within else None
        self._is_over = False
        """Whether the state is captured after all batches of an epoch, before its validation."""
        self._fit = FitItem(self)
        options = dict(options)
        if fit.why_not:
            self._only_epochs(fit.why_not, directory, options)
        self._items = self._make_items(fit)
        self._run = HostedRun(directory, state={item.name: item for item in self._items}, **options)
        self._unwatch: Callable[[], None] = lambda: None
        self._told = False
        """Whether a batch was seen since the last step."""
        if self._run.watched:
            self._unwatch = tell_batches(model, self._handed)
        if self._within and fit.validates:
            fitting.at_end(fit.epochs, self._batches_done)
        try:
            self._begin(fit)
        except BaseException as problem:
            self.abandon(problem)
            raise

    def close(self) -> None:
        """Training is finished."""
        self._unwatch()
        self._run.close()

    def wait(self) -> None:
        """Block until all that was saved is durable."""
        self._run.wait()

    def abandon(self, problem: BaseException) -> None:
        """Training ended by `problem`."""
        self._unwatch()
        self._run.abandon(problem)

    def _make_items(self, fit: fitting.Fit) -> list[Item]:
        model = self.model
        ready = _once(lambda: fitting.build(model, fit.epochs))
        optimizer = model.optimizer
        return [
            VariablesItem("model", model, lambda: model.variables, ready=ready),
            VariablesItem("optimizer", model, lambda: optimizer.variables if optimizer else (), trained=True),
            VariablesItem("metrics", model, lambda: [one for metric in model.metrics for one in metric.variables],
                          trained=False, copied=True),
            self._fit,
        ]  # fmt: skip

    def _only_epochs(self, why_not: str, directory: str, options: dict[str, Any]) -> None:
        message = f"saves and restarts are at the ends of epochs only: {why_not}"
        warnings.warn(message, MilepostWarning, stacklevel=2)
        if options.get("resume", "latest") == "latest":
            options["resume"] = _newest_epoch_end(directory)
        options["every"] = Every(epochs=1)

    # -- the beginning ---------------------------------------------------------------------------------------------------------

    def _begin(self, fit: fitting.Fit) -> None:
        run, loaded = self._run, self._fit.loaded
        if loaded is None:
            self._epoch = fit.first_epoch
            run.begin(fit.first_epoch)
            run.arrived()
            return
        self._epoch, done = loaded["epoch"], loaded["batch"]
        if done and (self._data is None or loaded["backend"] != keras.backend.backend()):
            self._warn(
                f"the checkpoint was taken at batch {done} of epoch {self._epoch + 1}, which cannot be gone on with here: "
                "the epoch begins again, and its first samples are seen twice"
            )
            done = 0
            run.begin(self._epoch)
        absent = self._others.restore(loaded["callbacks"])
        if absent:
            run.note(f"callbacks that the checkpoint has and this script has not: {', '.join(absent)}")
        over = loaded["stopped"] or self._epoch >= self._epochs
        fitting.start_at(self.model, max(self._epoch, self._epochs) if over else self._epoch)
        self.model.stop_training = loaded["stopped"]
        if over:
            run.note(f"{self._epoch} epochs are done: nothing is left to train")
        elif self._data is not None and loaded["data"] is not None and loaded["batch"] == done:
            for note in self._data.resume(loaded["data"], done):
                self._warn(note)
            if self._data.is_unseeded:
                run.is_inexact(
                    "TensorFlow shuffles the data without a seed: this epoch goes on without a sample skipped or seen twice, later "
                    "ones come in another order than they would have"
                )
        if done:
            self._batch, self._logs, self._ended = done, loaded["logs"], False
            self._again = [(one, np.array(host(one))) for item in self._variables() for one in item.live().values()]
        else:
            run.arrived()

    def _variables(self) -> list[VariablesItem]:
        return [item for item in self._items if isinstance(item, VariablesItem)]

    def _warn(self, text: str) -> None:
        self._run.warn(text)
        warnings.warn(text, MilepostWarning, stacklevel=2)

    def epoch_begins(self, epoch: int) -> None:
        """Called when all callbacks know that an epoch begins."""
        fitting.start_at(self.model, None)
        if self._train_function is None and not self._again:
            self._epoch, self._batch = epoch, 0

    @property
    def standing_in(self) -> bool:
        """Whether the batch that ends was done before the restart."""
        return self._train_function is not None

    def _stand_in(self) -> None:
        """The place where the state was saved is reached: the next call of the train function does nothing."""
        model, logs = self.model, self._logs
        self._train_function = model.train_function
        jax = keras.backend.backend() == "jax"
        model.train_function = (lambda state, data: (dict(logs), state)) if jax else (lambda data: dict(logs))

    def _arrive(self) -> None:
        model, loaded, run = synced(self.model), self._fit.loaded, self._run
        assert loaded is not None
        model.train_function, self._train_function = self._train_function, None
        for variable, value in self._again:
            assign(variable, value)
        self._again = []
        fitting.renew(model)
        self._others.restore(loaded["callbacks"])
        left = self._data.left_alone if self._data is not None else ()
        drawn = {name: state for name, state in run.rng.capture().items() if name in left}
        run.arrived()
        run.rng.restore(drawn)

    # -- what happens ------------------------------------------------------------------------------------------------------------

    def _handed(self, batch: Any) -> None:
        """The train function reads a batch, while somebody watches."""
        self._told = True
        self._run.handed("fit", batch)

    def batch_ends(self, batch: int, logs: Mapping[str, Any]) -> None:
        """The train function has done everything up to `batch`."""
        if self._train_function is not None:
            self._arrive()
            return
        if self._run.watched and not self._told:
            self._run.handed("fit", UnseenBatch())
        self._told = False
        done = batch + 1
        # The last of several batches in one execution may not exist.
        most = self._fit_epochs.num_batches or done
        steps = min(done, most) - min(self._batch, most)
        self._batch, self._logs, self._ended = done, logs, False
        self._run.steps_done(max(steps, 1), min(done, most), self._metrics(logs))

    def _batches_done(self) -> None:
        """Keras has found that the epoch has no more batches. After a restart it will not look for more."""
        if not self.model.stop_training:
            self._is_over = True
            self._run.batches_done()
            self._is_over = False

    def validating(self) -> None:
        """Validation is under way."""
        self._run.validating()

    def epoch_ends(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """An epoch is done, validation and all."""
        self._epoch, self._batch, self._ended, self._logs = epoch + 1, 0, True, {}
        # What fit does after its last epoch (averaged or best weights) is no state to train on from.
        last = self._epoch >= self._epochs or self.model.stop_training
        self._run.epoch_done(self._metrics(logs), save=last)

    def _metrics(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in logs.items() if name not in ITEMS and is_scalar(value)}

    def read_ahead(self) -> tuple[str, ...]:
        """The libraries that loading code may draw from ahead of training."""
        return AHEAD if self._within and fitting.reads_ahead(self._fit_epochs) else ()

    def held(self) -> dict[str, Any]:
        """The objects with code of a script's own that ``fit`` works with: callbacks, and what data is read from."""
        source = fitting.source(self._fit_epochs) if self._within else None
        return {**self._others.callbacks, **({} if source is None else {type(source).__name__: source})}

    def capture(self) -> dict[str, Any]:
        """See `FitItem`."""
        data = self._data.capture(within=not self._ended, over=self._is_over) if self._data is not None else None
        return {**self.fit_state(), "data": data}

    def fit_state(self) -> dict[str, Any]:
        """All but the position in the data."""
        return {
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "epoch": self._epoch,
            "batch": self._batch,
            "stopped": bool(self.model.stop_training),
            "logs": {name: float(value) for name, value in self._logs.items() if is_scalar(value)},
            "callbacks": self._others.capture(),
        }


def _newest_epoch_end(directory: str) -> str:
    """Which checkpoint to resume where only those at the end of an epoch will do; the newest if there is none."""
    try:
        run = RunFolder.open(LocalStorage(directory))
    except NotFoundError:
        return "latest"
    records, checkpoints = read_records(run), run.checkpoints()
    line = lineage(records, checkpoints, newest_attempt(records, checkpoints))
    for number, one in enumerate(line):
        if one.summary is not None and one.summary.good and one.summary.phase == Phase.EPOCH_ENDED:
            return f"step={one.step}" if number else "latest"
    return "latest"


def _once(call: Any) -> Any:
    done: list[bool] = []

    def once() -> None:
        if not done:
            done.append(True)
            call()

    return once
