"""What feeds compare between the pass that was saved and the one that continues it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import numpy as np
import xxhash

from milepost.errors import LoaderError
from milepost.training.rng import capture_generator, restore_generator

Position = dict[str, object]
"""Where a pass is: plain values and numpy arrays."""


def check(saved: Mapping[str, object], facts: Mapping[str, object], where: str, hint: str | None = None) -> None:
    """Compare what was said about the loader when `saved` was saved with the `facts` here.

    Raises:
        LoaderError: they differ; it lists how.

    """
    before = cast("Mapping[str, object]", saved.get("facts", {}))
    differing = [name for name in {**before, **facts} if before.get(name) != facts.get(name)]
    if differing:
        raise LoaderError(
            "the data is not what it was when this position was saved",
            where=where,
            expected=", ".join(f"{name} {before.get(name)}" for name in differing),
            found=", ".join(f"{name} {facts.get(name)}" for name in differing),
            hint=hint or "make the loader as it was, or start a new run from this checkpoint's weights",
        )


def length_of(loader: object) -> int | None:
    """How many batches there are, where `loader` says so."""
    try:
        return len(cast("Any", loader))
    except (TypeError, NotImplementedError, AttributeError):
        return None


def digest(value: object, before: int = 0) -> int:
    """64 bits that tell whether nested plain values and arrays are the same as in another process, chained to `before`.

    Arrays of frameworks are read through ``__array__``. Of anything else only the class counts.
    """
    hasher = xxhash.xxh3_64(seed=before)
    _digest(hasher, value)
    return hasher.intdigest()


def _digest(hasher: xxhash.xxh3_64, value: object) -> None:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        hasher.update(f"{type(value).__name__} {value!r};".encode())
    elif isinstance(value, Mapping):
        hasher.update(f"mapping {len(value)};".encode())
        for pair in value.items():
            _digest(hasher, pair)
    elif isinstance(value, (list, tuple)):
        hasher.update(f"sequence {len(value)};".encode())
        for item in value:
            _digest(hasher, item)
    elif is_dataclass(value) and not isinstance(value, type):
        _digest(hasher, {field.name: getattr(value, field.name) for field in fields(value)})
    else:
        array = _array(value)
        if array is None:
            hasher.update(f"{type(value).__qualname__};".encode())
        else:
            hasher.update(f"array {array.dtype.str} {array.shape};".encode())
            hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _array(value: object) -> np.ndarray[Any, Any] | None:
    if not hasattr(value, "__array__"):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # on an accelerator, or of a type NumPy has not
        return None
    return None if array.dtype.hasobject else array


def capture_generators(generators: Mapping[str, object]) -> dict[str, object]:
    """The states of `generators`, by path."""
    return {path: capture_generator(generator) for path, generator in generators.items()}


def restore_generators(generators: Mapping[str, object], states: object) -> None:
    """Put back the `states` of those `generators` that are among them."""
    for path, state in cast("Mapping[str, Mapping[str, object]]", states).items():
        if path in generators:
            restore_generator(generators[path], state, path)
