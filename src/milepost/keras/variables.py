"""Keras variables: their names, their values as host arrays, and putting values back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_NUMBER = re.compile(r"_\d+(?=[_/]|$)")
_BITS = {"bfloat16": "int16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
"""torch's dtypes that NumPy lacks, and integers of the same size."""


def host(variable: Any) -> Array:
    """The value of `variable` now. Where the backend keeps it in host memory this is no copy but a view, true until the next
    assignment (TensorFlow: for good, since it writes elsewhere while the view lives)."""
    value = variable.value
    backend = keras.backend.backend()
    if backend == "torch":
        return _of_torch(value)
    if backend == "tensorflow":
        return np.asarray(value.read_value() if hasattr(value, "read_value") else value)
    return np.asarray(value)


def _of_torch(value: Any) -> Array:
    import torch

    value = value.detach().cpu().contiguous()
    name = str(value.dtype).removeprefix("torch.")
    if name in _BITS:
        bits: Array = value.view(getattr(torch, _BITS[name])).numpy()
        return bits.view(getattr(ml_dtypes, name))
    array: Array = value.numpy()
    return array


def assign(variable: Any, value: Any) -> None:
    """Put a host array into `variable`."""
    value = np.asarray(value)
    if keras.backend.backend() == "torch" and value.dtype.name in _BITS:
        import torch

        value = torch.from_numpy(value.view(_BITS[value.dtype.name])).view(getattr(torch, value.dtype.name))
    variable.assign(value)


def spec(value: Any) -> str:
    """Element type and shape of a variable, for comparing and for people."""
    return f"{keras.backend.standardize_dtype(value.dtype)} {list(value.shape)}"


def named(variables: Iterable[Any]) -> dict[str, Any]:
    """Variables by a name that only one of them has: their path, numbered where several share it."""
    found: dict[str, Any] = {}
    for variable in variables:
        path, number = variable.path, 1
        while path in found:
            number += 1
            path = f"{variable.path}#{number}"
        found[path] = variable
    # A name that is also a folder of others would be a leaf and a dict at once.
    folders = {path[:at] for path in found for at in _slashes(path)}
    return {f"{path}#" if path in folders else path: variable for path, variable in found.items()}


def _slashes(path: str) -> list[int]:
    return [at for at, character in enumerate(path) if character == "/"]


def match(live: Sequence[str], saved: Sequence[str]) -> dict[str, str] | None:
    """Which saved name belongs to which live one; None if they are others.

    Keras numbers the layers of a process (``dense``, ``dense_1``), so a model that is built a second time has other names in the
    same order: those that differ in numbers alone are matched by order.
    """
    if set(live) == set(saved):
        return {name: name for name in live}
    if [_NUMBER.sub("", name) for name in live] == [_NUMBER.sub("", name) for name in saved]:
        return dict(zip(live, saved, strict=True))
    return None
