"""The only door through which tensors of a framework come in and go out: one adapter per framework, loaded when an
object of it is met.

Nothing else in the lower layers knows a framework, and meeting none imports none.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol, cast

from milepost.core.dtypes import DType
from milepost.core.manifest import Tensor


class LeafInfo(NamedTuple):
    """What a live tensor is.

    `strides` (in elements) only where it is not C-contiguous. `memory` is equal for two tensors that are the same
    bytes seen the same
    way (tied weights); None where that cannot be. `address` is where its bytes begin, if they are in host memory in C order.
    `variant` is what its framework needs beside dtype and shape to make it anew, in words of its own. An `immutable` one
    never changes while somebody holds it; at most it is gone (`GoneError`).
    """

    type: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int
    strides: tuple[int, ...] | None = None
    device: str | None = None
    memory: Hashable | None = None
    address: int | None = None
    variant: str | None = None
    immutable: bool = False

    @property
    def draws(self) -> bool:
        """Whether random numbers are drawn from it: a typed key of `jax.random`."""
        return self.variant is not None and self.variant.startswith("key<")


class GoneError(Exception):
    """A tensor that was held has no memory any more: its framework gave it away. The text says how that comes about."""


class TensorAdapter(Protocol):
    """How one framework's tensors are described, copied out and made anew."""

    def is_tensor(self, kind: type) -> bool:
        """Whether objects of `kind` are tensors."""

    def describe(self, value: Any) -> LeafInfo:
        """What `value` is. Raises `NotStorableError` (the caller adds the path) for meta tensors, quantised ones and the like."""

    def same(self, value: Any, info: LeafInfo) -> bool:
        """Whether `info`, which `describe` gave for this very object before, still describes it."""

    def copy(self, value: Any, out: memoryview) -> None:
        """Copy the elements in C order into `out`, ``info.nbytes`` long, and return when they are there. Raises `GoneError`."""

    def copy_part(self, value: Any, start: int, out: memoryview) -> bool:
        """Copy the bytes from `start` on, as many as `out` has room for; False where that takes as much memory as the whole."""

    def empty(self, tensor: Tensor) -> tuple[Any, memoryview] | None:
        """A new tensor as `build` makes it, and the bytes of its elements, still to be written; None where those are not host
        memory in C order."""

    def build(self, data: memoryview, tensor: Tensor) -> Any:
        """A new tensor with memory of its own from bytes in C order, with the saved dtype, shape and strides, on the host."""


ADAPTERS = {
    "numpy": "milepost.core.arrays",
    "ml_dtypes": "milepost.core.arrays",
    "torch": "milepost.torch.adapter",
    "jax": "milepost.jax.adapter",
}
"""Top-level module of a framework -> module whose `ADAPTER` knows its tensors."""

_by_type: dict[type, TensorAdapter | None] = {}


def adapter_of(value: object) -> TensorAdapter | None:
    """The adapter for a tensor, or None if `value` is no tensor of a known framework."""
    kind = type(value)
    try:
        return _by_type[kind]
    except KeyError:
        pass
    found = None
    for base in kind.__mro__:
        module = ADAPTERS.get(base.__module__.partition(".")[0])
        if module is not None:
            adapter = cast("TensorAdapter", importlib.import_module(module).ADAPTER)
            if adapter.is_tensor(kind):
                found = adapter
                break
    _by_type[kind] = found
    return found


def is_tensor(value: object) -> bool:
    """Whether `value` is a tensor of a known framework."""
    try:
        return _by_type[type(value)] is not None
    except KeyError:
        return adapter_of(value) is not None


def adapter_for(framework: str) -> TensorAdapter:
    """The adapter that makes tensors of `framework` (a `Tensor.type`); numpy's where the framework is not loaded."""
    if framework not in ADAPTERS or framework not in sys.modules:
        framework = "numpy"
    return cast("TensorAdapter", importlib.import_module(ADAPTERS[framework]).ADAPTER)
