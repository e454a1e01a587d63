"""Reading a `tf.data.Dataset` in ``run.batches`` so that a restart continues at the very same batch.

TensorFlow saves where an iterator is, shuffle buffers and all, unless Python code or random operations are in the pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import tensorflow as tf

from milepost.errors import LoaderError
from milepost.tensorflow.iterators import Pass, is_iterator, is_unseeded, pass_over
from milepost.training.feeds import Feed, refusal
from milepost.training.feeds_checks import Position
from milepost.training.feeds_iterable import ReplayFeed, StatefulFeed


def feed_for(loader: object, *, replay: bool) -> Feed | None:
    """The feed for a `tf.data.Dataset`; None for what is none.

    Raises:
        LoaderError: an iterator, which can be read only once.
    """
    if is_iterator(loader):
        raise LoaderError(
            "an iterator of tf.data gives one pass, wherever it is",
            where="run.batches",
            hint="give run.batches the dataset itself, or keep the iterator as an item: Checkpointer(data=iterator)",
        )
    if not isinstance(loader, tf.data.Dataset):
        return None
    return ReplayedDatasetFeed(_Passes(loader)) if replay else DatasetFeed(_Passes(loader))


def shield(loader: object) -> object:
    """`loader`: TensorFlow reads in threads, which take no signals."""
    return loader


class _Passes:
    """A dataset with the methods by which others keep their state; the state is that of the pass begun last."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._pass: Pass | None = None
        self._saved: Any = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        self._pass, self._saved = Pass(self.dataset, iter(self.dataset), self._saved), None
        return cast("Iterator[Any]", self._pass.iterator)

    def state_dict(self) -> Any:
        return None if self._pass is None else self._pass.capture()

    def load_state_dict(self, state: Any) -> None:
        self._saved = state


class DatasetFeed(StatefulFeed):
    """Reads a dataset by its own position."""

    def __init__(self, passes: _Passes) -> None:
        super().__init__(passes, where=type(passes.dataset).__qualname__)
        self._dataset = passes.dataset
        self._can_tell = False
        if is_unseeded(passes.dataset):
            self.notes = [
                f"{self._where}: it shuffles without a seed, so after a restart later passes come in another order"
            ]

    def next(self) -> object:
        """See `Feed.next`. Raises a `LoaderError` at the first batch if TensorFlow cannot tell its position."""
        batch = super().next()
        if not self._can_tell:
            if self._state() is None:  # it is only known once something was read
                raise refusal(
                    self._dataset, "TensorFlow cannot save where it is: Python code or random operations are in it"
                )
            self._can_tell = True
        return batch


class ReplayedDatasetFeed(ReplayFeed):
    """Reads a dataset by its own position where TensorFlow can tell it, and else draws again what was done."""

    def __init__(self, passes: _Passes) -> None:
        super().__init__(passes)
        self._where = type(passes.dataset).__qualname__
        self._facts["class"] = self._where
        self._passes, self._begun, self._can_tell = passes, 0, True
        self.notes = [f"{self._where}: where TensorFlow cannot tell the position, a restart draws again what was done"]

    def begin(self, saved: Mapping[str, object] | None) -> None:
        """See `Feed.begin`."""
        begun = self._begun + 1 if saved is None else cast("int", saved["begun"])
        own = None if saved is None else saved["own"]
        over = saved is not None and bool(saved["over"])  # then no iterator is made of this pass
        if saved is None or own is None:
            for _ in range(begun - self._begun - (not over)):
                iter(self._passes.dataset)
            super().begin(saved)
        else:
            if over:
                pass_over(self._passes.dataset, cast("Mapping[str, Any]", own))
            else:
                self._passes.load_state_dict(own)
            super().begin({**saved, "done": 0, "digest": 0})
            self._handed, self._digest = cast("int", saved["done"]), cast("int", saved["digest"])
        self._begun = begun

    def position(self, done: int) -> Position:
        """See `Feed.position`."""
        own = self._passes.state_dict() if self._can_tell and done == self._handed else None
        self._can_tell &= own is not None or done != self._handed
        return {**super().position(done), "begun": self._begun, "own": own}

    def _content(self, batch: object) -> object:
        return [part.numpy() for part in tf.nest.flatten(batch, expand_composites=True)]
