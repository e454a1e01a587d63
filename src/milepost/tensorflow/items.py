"""TensorFlow's own objects as items: variables, modules and whatever else `tf.train.Checkpoint` tracks, iterators of `tf.data`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from milepost.core import tree
from milepost.core.paths import below, escape
from milepost.errors import Mismatch, NotStorableError
from milepost.tensorflow import iterators
from milepost.training.items import Item, Loaded, compare
from milepost.training.nested import at, flatten, nest
from milepost.training.rng import is_generator

_ITERATOR = "the position of an iterator"
Trackable: Any = tf.Module.__mro__[-2]
"""What everything that can be tracked comes from."""


def make_item(name: str, value: Any) -> Item | None:
    """The item for an object of TensorFlow; None for random generators, which are known as such."""
    if is_generator(value):
        return None
    if iterators.is_iterator(value):
        return IteratorItem(name, value)
    if isinstance(value, (Trackable, tf.train.ExponentialMovingAverage)):
        return TrackedItem(name, value)
    return None


def tracked(root: Any) -> dict[str, Any]:
    """The variables and iterators below `root` by the names of the attributes that lead there, each once, by the shortest way.

    Raises:
        NotStorableError: something with state of another kind, such as a lookup table.
    """
    found: dict[str, Any] = {}
    for path, node in _below(root):
        if isinstance(node, (tf.Variable, tf.data.Iterator)):
            found[path] = node
        elif type(node)._serialize_to_tensors is not Trackable._serialize_to_tensors:
            raise NotStorableError(
                f"a {type(node).__name__} keeps state that is no variable", where=path, hint="keep it in variables"
            )
    return found


def variables_below(root: Any) -> dict[str, Any]:
    """The variables alone, under the same names."""
    return {path: node for path, node in _below(root) if isinstance(node, tf.Variable)}


def _below(root: Any) -> Iterator[tuple[str, Any]]:
    """What is tracked below `root`, each with the shortest way that leads there. A variable of Keras is the one it holds, and those
    that Keras hides from TensorFlow (of layers in lists, seeds) come last, under the names they have there."""
    if isinstance(root, tf.Variable):
        yield "value", root
        return
    if isinstance(root, tf.train.ExponentialMovingAverage):
        yield from ((str(number), average) for number, average in enumerate(root._averages.values()))
        return
    view = tf.train.TrackableView(root)
    seen = {id(root)}
    waiting = deque([("", root)])
    keras = []
    while waiting:
        path, node = waiting.popleft()
        yield path, node
        if _is_of_keras(node):
            keras.append((path, node))
        if isinstance(node, (tf.Variable, tf.data.Iterator)):
            continue
        for name, child in view.children(node).items():
            child = held(child)
            if id(child) not in seen:
                seen.add(id(child))
                waiting.append((below(path) + escape(name), child))
    for path, node in keras:
        for variable in getattr(node, "variables", None) or ():
            inner = held(variable)
            if isinstance(inner, tf.Variable) and id(inner) not in seen:
                seen.add(id(inner))
                yield below(path) + variable.path, inner


def _is_of_keras(node: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "keras" for base in type(node).__mro__)


def held(node: Any) -> Any:
    """The variable that a variable of Keras holds; other objects as they are."""
    if not _is_of_keras(node):
        return node
    value = getattr(node, "value", None)
    return value if isinstance(value, tf.Variable) else node


class TrackedItem:
    """A variable, or what is tracked below an object."""

    replaced = borrows = False

    def __init__(self, name: str, root: Any) -> None:
        self.name, self.object = name, root
        self._trained: set[int] = set()

    def capture(self) -> Any:
        state: dict[str, Any] = {}
        self._trained = set()
        for path, one in tracked(self.object).items():
            if isinstance(one, tf.data.Iterator):
                state[path] = _position(one, path)
                continue
            state[path] = np.asarray(one.read_value())  # later assignments write elsewhere while this view lives
            if one.trainable:
                self._trained.add(id(state[path]))
        return nest(state)

    def compared(self) -> Any:
        """What `milepost audit` compares: not how a position is written down, which is not the same each time."""
        return {
            path: np.asarray(one.read_value())
            for path, one in tracked(self.object).items()
            if not isinstance(one, tf.data.Iterator)
        }

    def trained(self, tensor: Any) -> bool:
        return id(tensor) in self._trained

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        live = tracked(self.object)
        places = tree.unflatten(saved.structure, lambda path: path, self.name)
        loops = {path for path, one in live.items() if isinstance(one, tf.data.Iterator)}
        there = {
            path: f"{tensor.dtype} {list(tensor.shape)}"
            for path, place in flatten(places).items()
            if path.rpartition("/")[0] not in loops
            for tensor in [saved.tensors[place[len(self.name) + 1 :]]]
        }
        there |= {path: _ITERATOR for path in loops if isinstance(at(places, path), dict)}
        here = {
            path: _ITERATOR if path in loops else f"{one.dtype.name} {one.shape.as_list()}"
            for path, one in live.items()
        }
        return [Mismatch(f"{self.name}/{row.path}", row.saved, row.here) for row in compare(there, here)]

    def restore(self, saved: Loaded) -> None:
        state = saved.value()
        for path, one in tracked(self.object).items():
            if isinstance(one, tf.data.Iterator):
                iterators.restore(one, at(state, path))
            else:
                one.assign(at(state, path))


class IteratorItem:
    """An iterator of `tf.data`: where it is, its shuffle buffers with it."""

    replaced = borrows = False

    def __init__(self, name: str, iterator: Any) -> None:
        self.name, self.object = name, iterator

    def capture(self) -> Any:
        return _position(self.object, self.name)

    def compared(self) -> Any:
        """What `milepost audit` compares: nothing, since a position is not written down the same each time. The batches tell."""
        return {}

    def trained(self, tensor: Any) -> bool:
        return False

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        return []

    def restore(self, saved: Loaded) -> None:
        iterators.restore(self.object, saved.value())


def _position(iterator: Any, path: str) -> iterators.State:
    state = iterators.capture(iterator)
    if state is None:
        raise NotStorableError(
            "this iterator cannot tell where it is: Python code or random operations are in its pipeline",
            where=path,
            hint="read it through run.batches(dataset, replay=True)",
        )
    return state
