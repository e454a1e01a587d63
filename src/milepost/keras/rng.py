"""The random generators of Keras: the one behind ``seed=None``, and `keras.random.SeedGenerator` objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import keras
import numpy as np
from keras.src.backend.common import global_state

from milepost.keras.variables import assign, host
from milepost.training.rng import Kind, State, derive

_NAME = "global_seed_generator"
"""Under which Keras keeps the generator of random functions that are given no seed; made when first used."""


def _read(generator: Any) -> Any:
    return np.array(host(generator.state))


def _write(generator: Any, words: Any) -> None:
    assign(generator.state, words)


def _seed(generator: Any, seed: int) -> None:
    _write(generator, np.array([seed & 0x7FFFFFFF, 0], host(generator.state).dtype))


_KIND = Kind("keras.SeedGenerator", _read, _write, _seed, lambda words: {"words": words}, lambda state: state["words"])


def _global() -> Any:
    return global_state.get_global_attribute(_NAME)


class _Course:
    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._own = _read(_global()) if keep and _global() is not None else None

    def enter(self) -> None:
        generator = _global()
        self._program = None if generator is None else _read(generator)
        if generator is not None and self._own is not None:
            _write(generator, self._own)

    def leave(self) -> None:
        generator = _global()
        if generator is None:
            return
        if self._keep:
            self._own = _read(generator)
        if self._program is not None:
            _write(generator, self._program)


class _Keras:
    name = "keras"

    def capture(self) -> dict[str, State]:
        generator = _global()
        return {} if generator is None else {"global": {"words": _read(generator)}}

    def restore(self, saved: Mapping[str, State]) -> list[str]:
        if "global" in saved:
            if _global() is None:
                # With a seed: without one it would draw one from Python's generator.
                global_state.set_global_attribute(_NAME, keras.random.SeedGenerator(0))
            _write(_global(), saved["global"]["words"])
        return []

    def seed(self, seed: int) -> None:
        if _global() is not None:
            _seed(_global(), seed)

    def draw(self) -> int:
        if _global() is None:
            return 0
        return derive(*np.asarray(_global().next(ordered=False)).tolist()) >> 65

    def course(self, *, keep: bool) -> _Course:
        return _Course(keep)

    def kind(self, cls: type) -> Kind | None:
        return _KIND if issubclass(cls, keras.random.SeedGenerator) else None

    def global_generators(self) -> list[object]:
        return [] if _global() is None else [cast("object", _global())]


LIBRARIES = (_Keras(),)
