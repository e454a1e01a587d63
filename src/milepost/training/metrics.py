"""Metrics: scalars of any framework, read only when somebody needs the number.

Reading a value that is still being computed on a device makes the training thread wait for the device. So such a value
is kept as a copy of one element, without the graph that made it, until it is saved or shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard

from milepost.errors import MetricError


class _Scalar(Protocol):
    def item(self) -> Any: ...


class Deferred:
    """A scalar on a device that was not read yet. It is read once, then the device's copy is let go.

    Read it from the thread that trains: on another one, the device's streams may not be in order.
    """

    __slots__ = ("_name", "_tensor", "_value")

    def __init__(self, name: str, tensor: _Scalar) -> None:
        self._name = name
        self._tensor: _Scalar | None = tensor
        self._value = math.nan

    @property
    def known(self) -> bool:
        """Whether reading costs nothing any more."""
        return self._tensor is None

    def read(self) -> float:
        """The number; waits for the device if need be.

        Raises:
            MetricError: the device could not say.
        """
        tensor = self._tensor
        if tensor is not None:
            try:
                self._value = _real(tensor.item())
            except Exception as error:  # a framework's own: a device that failed, say
                raise MetricError(f"metric {self._name!r} cannot be read", found=error) from error
            self._tensor = None
        return self._value

    def __repr__(self) -> str:
        return f"Deferred({self._name!r}, {self._value if self.known else '...'})"


def is_scalar(value: object) -> bool:
    """Whether `value` can be a metric: a real number, or an array or tensor with one element that is one."""
    if isinstance(value, (str, bytes, bytearray, complex)):
        return False
    number = _readable(value) or hasattr(type(value), "__float__") or hasattr(type(value), "__index__")
    return number and _one_element(value) and "complex" not in str(getattr(value, "dtype", ""))


def scalar(name: str, value: object) -> float | Deferred:
    """`value` as a number, or as a promise of one where reading it now would wait for a device.

    Args:
        name: of the metric, for the error.
        value: a Python or NumPy number (bool and int too), or an array or tensor of any framework with one element.

    Raises:
        MetricError: it is none of these; the message names its shape.

    Example:
        >>> scalar("accuracy", True), scalar("loss", np.float32(0.5))
        (1.0, 0.5)
    """
    if not is_scalar(value):
        raise MetricError(
            f"metric {name!r} is not a scalar",
            expected="a real number, or a tensor with one element",
            found=_describe(value),
            hint="reduce it first, as loss.mean() does" if getattr(value, "shape", None) else None,
        )
    if not _readable(value) or _on_host(value):
        try:
            return _real(value.item() if _readable(value) else value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise MetricError(f"metric {name!r} is not a real number", found=f"{_describe(value)}: {error}") from error
    detach = getattr(value, "detach", None)
    if detach is None:
        return Deferred(name, value)  # arrays that have no graph cannot change either (JAX)
    # A copy: a tensor that a running sum or a captured graph writes into would have another value by the time it is
    # read, and one element of a large tensor would keep all of it.
    return Deferred(name, detach().clone())


class Metrics:
    """The last value of every metric."""

    def __init__(self) -> None:
        self._values: dict[str, float | Deferred] = {}

    def update(self, values: Mapping[str, object]) -> None:
        """Take new values; all of them or, if one is not a scalar, none.

        Raises:
            MetricError: see `scalar`.
        """
        if values:
            # Replaced, not changed: other threads may be reading.
            self._values = {**self._values, **{name: scalar(name, value) for name, value in values.items()}}

    def read(self) -> dict[str, float]:
        """Every metric as a number; waits for devices if need be.

        Raises:
            MetricError: a device could not say.
        """
        return {name: value.read() if isinstance(value, Deferred) else value for name, value in self._values.items()}

    def read_cheap(self) -> dict[str, float]:
        """Those that are known without waiting."""
        return {
            name: value.read() if isinstance(value, Deferred) else value
            for name, value in self._values.items()
            if not isinstance(value, Deferred) or value.known
        }


def _readable(value: object) -> TypeGuard[_Scalar]:
    return callable(getattr(value, "item", None))


def _real(value: Any) -> float:
    if isinstance(value, (str, bytes)):  # float() would parse it
        raise TypeError(f"{value!r} is text")
    return float(value)


def _one_element(value: object) -> bool:
    try:
        return int(math.prod(getattr(value, "shape", ()))) == 1
    except TypeError:  # a dimension that is not known
        return False


def _on_host(value: object) -> bool:
    """Whether reading `value` waits for nothing: its memory is that of the process, and it has been computed."""
    device = getattr(value, "device", "cpu")  # NumPy before 2 has no device
    return getattr(device, "type", device) == "cpu"


def _describe(value: object) -> str:
    kind = type(value).__qualname__
    shape = getattr(value, "shape", None)
    if shape is None:
        return kind
    return f"{kind} of shape {tuple(shape)}, {getattr(value, 'dtype', 'unknown dtype')}"
