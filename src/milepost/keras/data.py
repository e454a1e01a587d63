"""Where ``fit`` is in its data, and going there again.

What a batch holds depends on the random state at three moments: when the epoch began, when the pass over the data was
made, and when it was first asked. So these states are kept; a restart makes the pass again under them, and leaves out
what was done. Pipelines of `tf.data` tell where they are themselves, wherever they can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from milepost.core.leaves import digest
from milepost.errors import LoaderError
from milepost.keras import fitting
from milepost.keras.source import Source
from milepost.training.rng import GlobalRng

AHEAD = ("python", "numpy", "torch")
"""Whose random numbers loading code in other threads may draw, ahead of training. Where it is seen to do so, they stay as it leaves
them: that is what training would have found."""


class Data:
    """The data of one ``fit``.

    Args:
        epochs: its iterator over epochs.
        arriving: called when the place where the state was saved is reached, before the step that stands in for the last one done.
    """

    def __init__(self, epochs: Any, arriving: Callable[[], None]) -> None:
        self._epochs, self._arriving = epochs, arriving
        self._rng = GlobalRng()
        self._source = Source(fitting.source(epochs))
        self._size = fitting.executions(epochs)
        self._made = self._drawn = 0
        self._marks: dict[str, Any] = {}
        self._began: dict[str, Any] = {}
        self._began_source: dict[str, Any] = {}
        self._pass_source: dict[str, Any] = {}
        self._waiting: list[Any] = []
        self._pass_waiting: list[Any] = []
        self._left: tuple[str, ...] = ()
        self._tf_pass: Any = None
        """The newest pass over a pipeline of `tf.data`."""
        self._replay: Mapping[str, Any] | None = None
        self._tf_replay: Any = None
        """The position that the next pass over a pipeline of `tf.data` is to be taken to."""
        self._done = 0
        """Batches of the first epoch that are done."""
        self._unbegun: Mapping[str, Any] | None = None
        """The position that was restored, until a pass over the data begins."""
        self._is_over = False
        """Whether those were all of it."""
        fitting.replace_batches(epochs, self._batches)
        fitting.replace_iterator(epochs, lambda inner: _Pass(self, inner))
        fitting.tap(epochs, lambda dataset: _Tap(self, dataset))

    # -- what is saved ---------------------------------------------------------------------------------------------------------

    def capture(self, *, within: bool, over: bool = False) -> dict[str, Any]:
        """The position. `within`: in the middle of an epoch, rather than between two; `over`: where Keras has found its end."""
        if self._unbegun is not None:  # a restart amid a validation, of which the epoch is over by now
            return {**self._unbegun, "over": over}
        within = within and not over
        seen, total = fitting.counts(self._epochs)
        goes_on = within or fitting.is_kept_open(self._epochs)
        return {
            "kind": fitting.kind(self._epochs),
            "kept": fitting.is_kept(self._epochs),
            "goes_on": goes_on,
            "made": self._made,
            "drawn": self._drawn,
            "seen": seen,
            "total": total,
            "rng": dict(self._marks) if goes_on else {},
            "source": {"made": self._pass_source if goes_on else {}, "now": self._source.capture()},
            "tf": self._tf_state(),
            "waiting": self._pass_waiting if within else fitting.waiting(self._epochs),
            "over": over,
        }

    def _tf_state(self) -> Any:
        return None if self._tf_pass is None else self._tf_pass.capture()

    @property
    def left_alone(self) -> tuple[str, ...]:
        """The libraries whose random state the loader has moved on, ahead of training, in the pass that goes on."""
        return self._left

    # -- going there ------------------------------------------------------------------------------------------------------------

    def resume(self, saved: Mapping[str, Any], done: int) -> list[str]:
        """The next epoch begins after `done` of its batches, where `saved` was captured. Returns what a person should know.

        Raises:
            LoaderError: the data is of another kind than it was.
        """
        kind, kept = fitting.kind(self._epochs), fitting.is_kept(self._epochs)
        if (saved["kind"], saved["kept"]) != (kind, kept):
            raise LoaderError(
                "the data is not what it was when this position was saved",
                where="model.fit",
                expected=f"{saved['kind']}, {'with' if saved['kept'] else 'without'} steps_per_epoch",
                found=f"{kind}, {'with' if kept else 'without'} steps_per_epoch",
                hint="give fit the data as it was, or start again with resume='never'",
            )
        self._source.restore(saved["source"]["now"])
        fitting.set_waiting(self._epochs, saved["waiting"])
        fitting.set_counts(self._epochs, fitting.counts(self._epochs)[0], saved["total"])
        notes = []
        if fitting.is_generator(self._epochs) and saved["drawn"]:
            notes.append(f"a generator cannot be rewound: the {saved['drawn']} batches that were done are drawn again")
        self._done, self._is_over = done, saved["over"]
        self._unbegun = saved
        if saved["goes_on"]:
            self._replay = saved
        else:
            self._made = saved["made"]
            self._pass_by(saved)
        return notes

    @property
    def is_unseeded(self) -> bool:
        """Whether TensorFlow shuffles the data, and in another order in each process."""
        dataset = self._dataset()
        if dataset is None:
            return False
        from milepost.tensorflow import iterators, rng

        if fitting.reads_arrays(self._epochs):
            return fitting.shuffles_arrays(self._epochs) and not rng.is_seeded()
        return iterators.is_unseeded(dataset)

    def _dataset(self) -> Any:
        dataset = fitting.tf_dataset(self._epochs)
        return dataset.dataset if isinstance(dataset, _Tap) else dataset

    def _pass_by(self, saved: Mapping[str, Any]) -> None:
        """Bring a pipeline of `tf.data`, or a generator, where it is after the passes that were made."""
        dataset = self._dataset()
        if saved["tf"] is not None and dataset is not None:
            from milepost.tensorflow import iterators

            iterators.pass_over(dataset, saved["tf"])
        elif fitting.is_generator(self._epochs):
            fitting.read_pass(self._epochs)
        elif dataset is not None:
            for _ in range(saved["made"]):
                iter(dataset)

    # -- seen from the epoch iterator ---------------------------------------------------------------------------------------------

    def _batches(self, own: Callable[[], Iterator[fitting.Step]]) -> Iterator[fitting.Step]:
        """An epoch."""
        replay, done, self._done = self._replay, self._done, 0
        if done and self._is_over:
            yield from self._standing_in(done - self._size, done - 1)
            return
        if replay is not None and done:
            self._rng.restore(replay["rng"]["start"])
            self._source.restore(replay["source"]["made"])
            fitting.set_waiting(self._epochs, replay["waiting"])
        self._began, self._began_source = self._rng.capture(), self._source.capture()
        self._waiting = fitting.waiting(self._epochs)
        steps = own()
        if replay is not None:
            seen = replay["seen"] - done
            for number, step in enumerate(steps):
                if number == 0:  # the pass is made by now, and counted from 0
                    now, total = fitting.counts(self._epochs)
                    fitting.set_counts(self._epochs, now + seen, total)
                if not done:
                    yield self._counted(step)
                    break
                if step[1] + 1 >= done:
                    yield from self._standing_in(step[0], step[1])
                    break
        for step in steps:
            yield self._counted(step)

    def _standing_in(self, first: int, last: int) -> Iterator[fitting.Step]:
        """An execution that was done before the restart."""
        self._arriving()
        yield first, last, iter([None] * self._size)  # the torch backend reads its data before it trains

    def _counted(self, step: fitting.Step) -> fitting.Step:
        if self._marks.get("first") is None:
            self._marks["first"] = self._rng.capture()
        self._drawn += self._size
        return step

    def begin(self, inner: Any) -> Any:
        """Begin a pass over `inner`, or the one that is to go on."""
        self._unbegun = None
        replay, self._replay = self._replay, None
        if replay is not None:
            return self._begin_again(inner, replay)
        self._made += 1
        self._drawn = 0
        self._marks = {"start": self._began, "made": self._rng.capture(), "first": None}
        self._pass_source, self._pass_waiting = self._began_source, self._waiting
        return self._opened(iter(inner))

    def _begin_again(self, inner: Any, saved: Mapping[str, Any]) -> Any:
        before = self._rng.capture()
        if fitting.is_generator(self._epochs) and saved["made"] > 1:
            self._pass_by({**saved, "tf": None})
        self._marks, self._made = dict(saved["rng"]), saved["made"]
        self._pass_source, self._pass_waiting = saved["source"]["made"], self._waiting
        self._source.restore(self._pass_source)
        workers = fitting.has_workers(self._epochs)  # threads that began to draw with the epoch are not to be disturbed
        if saved["tf"] is None and fitting.tf_dataset(self._epochs) is inner:
            for _ in range(saved["made"] - 1):
                iter(inner)
        if not workers:
            self._rng.restore(saved["rng"]["made"])
        self._tf_replay = saved["tf"]
        iterator = self._opened(iter(inner))
        if saved["tf"] is None:
            first = saved["rng"]["first"]
            if first is not None and not workers:
                self._rng.restore(first)
            for _, _ in zip(range(saved["drawn"]), iterator, strict=False):
                pass
            if fitting.reads_ahead(self._epochs) and first is not None:
                now = self._rng.capture()
                self._left = tuple(name for name in AHEAD if name in first and digest(now[name]) != digest(first[name]))
        self._drawn = saved["drawn"]
        if not fitting.reads_ahead(self._epochs):
            self._source.restore(saved["source"]["now"])
        self._rng.restore({name: state for name, state in before.items() if name not in self._left})
        return iterator

    def _opened(self, iterator: Any) -> Any:
        if fitting.reads_in_graph(self._epochs):  # from an iterator of TensorFlow's own kind only
            return self.tapped(fitting.tf_dataset(self._epochs), iterator)
        return _First(iterator, self)

    def tapped(self, dataset: Any, iterator: Any) -> Any:
        """An iterator of the `tf.data` pipeline `dataset` was made; it is where it should be."""
        from milepost.tensorflow import iterators, rng

        state, self._tf_replay = self._tf_replay, None
        # With a seed, arrays are drawn again: their position leaves out how each batch is shuffled.
        drawn_again = fitting.reads_arrays(self._epochs) and rng.is_seeded()
        self._tf_pass = None if drawn_again else iterators.Pass(dataset, iterator, state)
        return iterator

    def asked(self) -> None:
        """A pass is asked for its first batch."""
        self._marks["first"] = self._rng.capture()


class _Pass:
    """What Keras begins a pass over."""

    def __init__(self, data: Data, inner: Any) -> None:
        self._data, self._inner = data, inner

    def __iter__(self) -> Any:
        return self._data.begin(self._inner)


class _Tap:
    """A `tf.data.Dataset` on another backend; its iterators are known to `Data`."""

    def __init__(self, data: Data, dataset: Any) -> None:
        self._data, self.dataset = data, dataset

    def __iter__(self) -> Any:
        return self._data.tapped(self.dataset, iter(self.dataset))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dataset, name)


class _First:
    """An iterator that tells when it is first asked."""

    def __init__(self, inner: Iterator[Any], data: Data) -> None:
        self._inner, self._data, self._asked = inner, data, False

    def __iter__(self) -> _First:
        return self

    def __next__(self) -> Any:
        if not self._asked:
            self._asked = True
            self._data.asked()
        return next(self._inner)
