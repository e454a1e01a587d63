"""TensorFlow's random state: the seeds that ``tf.random.set_seed`` began, and `tf.random.Generator` objects.

The kernels of stateful operations inside a ``tf.function`` keep generators of their own, which nobody can read.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

from milepost.training.rng import Kind, State, capture_generator, restore_generator


def _read(generator: Any) -> Any:
    return generator.algorithm, np.array(generator.state.read_value())


def _write(generator: Any, native: Any) -> None:
    algorithm, words = native
    if algorithm != generator.algorithm:
        raise ValueError(f"a generator of algorithm {generator.algorithm}")
    generator.reset(words)


_GENERATOR = Kind("tf.random.Generator", _read, _write,
                  lambda generator, seed: generator.reset_from_seed(seed & ((1 << 63) - 1)),
                  lambda native: {"algorithm": int(native[0]), "words": native[1]},
                  lambda state: (state["algorithm"], np.asarray(state["words"])))  # fmt: skip


def _eager() -> Any:
    """Where TensorFlow keeps the global seed, and the `random.Random` that gives each eager operation its own."""
    return context.context()


def _global_generator() -> Any:
    return stateful_random_ops.global_generator  # the public function would make one


def is_seeded() -> bool:
    """Whether ``tf.random.set_seed`` was called."""
    return context.global_seed() is not None


class _Course:
    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._own = _now() if keep else None

    def enter(self) -> None:
        self._program = _now()
        if self._own is not None:
            _go(self._own)

    def leave(self) -> None:
        if self._keep:
            self._own = _now()
        _go(self._program)


def _now() -> tuple[Any, Any, Any]:
    numbers, generator = getattr(_eager(), "_rng", None), _global_generator()
    return (
        _eager()._seed,
        None if numbers is None else numbers.getstate(),
        None if generator is None else _read(generator),
    )


def _go(state: tuple[Any, Any, Any]) -> None:
    eager = _eager()
    eager._seed = state[0]
    if state[1] is None:
        vars(eager).pop("_rng", None)  # TensorFlow has none before it is seeded
    else:
        if getattr(eager, "_rng", None) is None:
            eager._rng = random.Random(0)  # noqa: S311
        eager._rng.setstate(state[1])
    if state[2] is not None and _global_generator() is not None:
        _write(_global_generator(), state[2])


class _TensorFlow:
    name = "tensorflow"

    def capture(self) -> dict[str, State]:
        seed, numbers, _ = _now()
        states: dict[str, State] = {"eager": {"seed": seed}}
        if numbers is not None:
            version, words, gauss = numbers
            states["eager"] |= {"version": version, "words": np.array(words, np.uint32), "gauss": gauss}
        if _global_generator() is not None:
            states["global"] = capture_generator(_global_generator())
        return states

    def restore(self, saved: Mapping[str, State]) -> list[str]:
        eager: Mapping[str, Any] = saved["eager"]
        words = eager.get("words")
        numbers = None if words is None else (eager["version"], tuple(np.asarray(words).tolist()), eager["gauss"])
        _go((eager["seed"], numbers, None))
        if "global" in saved:
            restore_generator(tf.random.get_global_generator(), saved["global"], "tf.random.get_global_generator()")
        return []

    def seed(self, seed: int) -> None:
        tf.random.set_seed(seed & 0x7FFFFFFF)

    def draw(self) -> int:
        if getattr(_eager(), "_rng", None) is None:  # not seeded: TensorFlow's own operations then draw from the system
            return secrets.randbits(62)
        return int(context.internal_operation_seed()) << 31 | int(context.internal_operation_seed())

    def course(self, *, keep: bool) -> _Course:
        return _Course(keep)

    def kind(self, cls: type) -> Kind | None:
        return _GENERATOR if issubclass(cls, tf.random.Generator) else None

    def global_generators(self) -> list[object]:
        return [] if _global_generator() is None else [_global_generator()]


LIBRARIES = (_TensorFlow(),)
