"""The private hook: into ``model.fit`` while it is running, where Keras offers no public one.

A callback cannot know the position within an epoch, set it, or be the last of all callbacks. So the frame of ``fit`` is looked up,
which holds the list of callbacks and the iterator over epochs; that iterator's generator of batches is replaced by one of ours.
Everything that depends on how Keras is made inside is in this file; but for what an audit needs, which is in ``batches.py`` and
``scripts.py``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras

from milepost.errors import ScriptError

TESTED = ((3, 11), (3, 15))
"""The first and the last version of Keras whose epoch iterator was looked at: it is the same in all of them."""

Step = tuple[int, int, Any]
"""Number of the first and the last batch of an execution, and what the train function reads its data from."""


class Fit(NamedTuple):
    """A ``model.fit`` under way."""

    callbacks: list[Any]
    """In the order in which they are called. What is appended while ``on_train_begin`` goes round is called last."""
    epochs: Any
    """The iterator over epochs; iterating over it is one epoch."""
    first_epoch: int
    """What ``fit`` was given as ``initial_epoch``."""
    validates: bool
    """Whether there is validation data."""
    why_not: str
    """Why the position within an epoch cannot be had; empty if it can."""


def find() -> Fit:
    """The ``fit`` that is calling.

    Raises:
        ScriptError: there is none: the callback is used in a loop of the script's own.
    """
    frame = sys._getframe(1)
    while frame is not None:
        names = frame.f_locals if frame.f_code.co_name == "fit" else {}
        if "epoch_iterator" in names and isinstance(names.get("callbacks"), keras.callbacks.CallbackList):
            epochs = names["epoch_iterator"]
            first = int(names.get("initial_epoch") or 0)
            validates = names.get("validation_data") is not None
            return Fit(names["callbacks"].callbacks, epochs, first, validates, _why_not(epochs))
        frame = frame.f_back  # type: ignore[assignment]
    raise ScriptError(
        "milepost.keras.Checkpoint works inside model.fit",
        hint="in a loop of your own use milepost.Checkpointer(directory, model=model, optimizer=model.optimizer)",
    )


def _why_not(epochs: Any) -> str:
    major, minor = (int(part) for part in keras.__version__.split(".")[:2])
    if not TESTED[0] <= (major, minor) <= TESTED[1]:
        first, last = (".".join(map(str, version)) for version in TESTED)
        return f"Keras {keras.__version__} is not among the versions it was tested with, {first} to {last}"
    missing = [
        name
        for name in (
            *("_enumerate_iterator", "_get_iterator", "catch_stop_iteration"),
            *("_steps_seen", "_num_batches", "data_adapter"),
        )
        if not hasattr(epochs, name)
    ]
    return f"this Keras has another epoch iterator, without {', '.join(missing)}" if missing else ""


def replace_batches(epochs: Any, batches: Callable[[Callable[[], Iterator[Step]]], Iterator[Step]]) -> None:
    """From now on an epoch is what `batches` makes of the function that makes Keras' own."""
    own = epochs._enumerate_iterator
    epochs._enumerate_iterator = lambda: batches(own)


def replace_iterator(epochs: Any, make: Callable[[Any], Any]) -> None:
    """From now on data is read from what `make` makes of what Keras would read from; `iter` of that begins a pass."""
    own = epochs._get_iterator
    epochs._get_iterator = lambda: make(own())


def at_end(epochs: Any, ended: Callable[[], None]) -> None:
    """From now on `ended` is called when ``fit`` has found the end of an epoch's batches, before it validates: there are as many as
    Keras knew of, or the data ran out."""
    batches, catch = epochs._enumerate_iterator, epochs.catch_stop_iteration

    def all_batches() -> Iterator[Step]:
        yield from batches()
        ended()

    @contextlib.contextmanager
    def catch_end() -> Iterator[None]:
        ran_out = False
        with catch():
            try:
                yield
            except BaseException:
                ran_out = True  # unless it goes on from here
                raise
        if ran_out:
            ended()

    epochs._enumerate_iterator, epochs.catch_stop_iteration = all_batches, catch_end


def kind(epochs: Any) -> str:
    """Of the data: which class of Keras reads it."""
    return type(epochs.data_adapter).__name__


def read_pass(epochs: Any) -> None:
    """Read a pass over the data for nothing."""
    for _ in epochs._get_iterator():
        pass


def reads_in_graph(epochs: Any) -> bool:
    """Whether TensorFlow reads the data itself."""
    return hasattr(epochs, "_distributed_dataset")


def executions(epochs: Any) -> int:
    """Batches in one call of the train function."""
    return int(epochs.steps_per_execution)


def is_kept(epochs: Any) -> bool:
    """Whether one pass over the data goes on from epoch to epoch."""
    return epochs.steps_per_epoch is not None


def is_kept_open(epochs: Any) -> bool:
    """Whether such a pass is under way between two epochs."""
    return is_kept(epochs) and epochs._current_iterator is not None


def counts(epochs: Any) -> tuple[int, int | None]:
    """Batches that the current pass was asked for, and how many it has as far as is known."""
    return epochs._steps_seen, epochs._num_batches


def set_counts(epochs: Any, seen: int, total: int | None) -> None:
    """Put back what `counts` gave."""
    epochs._steps_seen, epochs._num_batches = seen, total


def tf_dataset(epochs: Any) -> Any:
    """The `tf.data.Dataset` that is read, or None."""
    found = getattr(epochs, "_distributed_dataset", None)
    return getattr(epochs.data_adapter, "_dataset", None) if found is None else found


def tap(epochs: Any, wrap: Callable[[Any], Any]) -> None:
    """On a backend other than TensorFlow's: read a `tf.data.Dataset` through what `wrap` makes of it."""
    if not reads_in_graph(epochs) and hasattr(epochs.data_adapter, "_dataset"):
        epochs.data_adapter._dataset = wrap(epochs.data_adapter._dataset)


def source(epochs: Any) -> Any:
    """The object with code of its own that data is read from (`keras.utils.PyDataset`, a DataLoader), or None."""
    adapter = epochs.data_adapter
    return getattr(adapter, "py_dataset", None) or getattr(adapter, "_dataloader", None)


def is_generator(epochs: Any) -> bool:
    """Whether data comes from a generator, which no one can rewind."""
    return hasattr(epochs.data_adapter, "generator")


def reads_ahead(epochs: Any) -> bool:
    """Whether code of Python loads batches in other threads, ahead of training."""
    beside = reads_in_graph(epochs) and (source(epochs) is not None or is_generator(epochs))
    return beside or has_workers(epochs)


def reads_arrays(epochs: Any) -> bool:
    """Whether data are arrays in memory."""
    return kind(epochs) == "ArrayDataAdapter"


def shuffles_arrays(epochs: Any) -> bool:
    """Whether such arrays are shuffled."""
    return bool(getattr(epochs.data_adapter, "_shuffle", False))


def waiting(epochs: Any) -> list[Any]:
    """Batches that workers loaded in a pass that was left, and that the next one begins with."""
    enqueuer = getattr(epochs.data_adapter, "enqueuer", None)
    return [] if enqueuer is None else list(enqueuer.ready_queue.queue)


def set_waiting(epochs: Any, batches: list[Any]) -> None:
    """Put back what `waiting` gave."""
    enqueuer = getattr(epochs.data_adapter, "enqueuer", None)
    if enqueuer is not None:
        enqueuer.ready_queue.queue.clear()
        for batch in batches:
            enqueuer.ready_queue.put(batch)


def has_workers(epochs: Any) -> bool:
    """Whether a `keras.utils.PyDataset` is read by workers."""
    return getattr(epochs.data_adapter, "enqueuer", None) is not None


def start_at(model: Any, epoch: int | None) -> None:
    """Let ``fit`` begin with `epoch`; None: with what it was told."""
    model._initial_epoch = epoch


def build(model: Any, epochs: Any) -> None:
    """Make the variables that would come with the first batch, on backends that have not done so before training."""
    dataset = tf_dataset(epochs) if reads_in_graph(epochs) else None
    if dataset is not None:
        model._symbolic_build(data_batch=dataset.element_spec)


def renew(model: Any) -> None:
    """Let the values that `model` was just given be those that ``fit`` goes on with. On JAX it keeps them beside the
    variables too, and takes those when the data ends where nobody knew that it would."""
    state = getattr(model, "_jax_state", None)
    if state:
        model._jax_state = {
            "trainable_variables": [one.value for one in model.trainable_variables],
            "non_trainable_variables": [one.value for one in model.non_trainable_variables],
            "optimizer_variables": [one.value for one in model.optimizer.variables],
            "metrics_variables": [one.value for one in model.metrics_variables],
        }
