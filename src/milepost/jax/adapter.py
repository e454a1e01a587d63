"""JAX arrays: described, copied out, made anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.adapter import GoneError, LeafInfo
from milepost.core.manifest import Tensor
from milepost.errors import FormatError, NotStorableError
from milepost.jax import arrays

DONATED = (
    "was donated to a jitted function after it was handed over: "
    "hand over what the function returned, run.step(params=params)"
)


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved array on its way back: its elements, valid only while the restore lasts, and what it was."""

    data: npt.NDArray[Any]
    variant: str | None


class JaxAdapter:
    """See `milepost.core.adapter.TensorAdapter`. An array may be spread over the devices of this process."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], LeafInfo] = {}
        self._arrays: set[type] = set()
        """Classes of arrays that were met: all others are described the long way."""

    def is_tensor(self, kind: type) -> bool:
        return issubclass(kind, (jax.Array, jax.ShapeDtypeStruct, jax.core.Tracer))

    def describe(self, value: jax.Array) -> LeafInfo:
        if type(value) in self._arrays and not value.is_deleted():
            known = value.aval, value.sharding
            info = self._known.get(known)
            if info is None:
                info = self._known[known] = self._describe(value)
            return info
        info = self._describe(value)
        self._arrays.add(type(value))
        return info

    def _describe(self, value: Any) -> LeafInfo:
        if isinstance(value, jax.ShapeDtypeStruct):
            raise NotStorableError(
                "this is only the description of an array: no array was handed over yet",
                hint="a run that begins has to make it: params = run['params'] if run.resumed_from else init(key)",
            )
        if isinstance(value, jax.core.Tracer):
            raise NotStorableError(
                "a traced value cannot be saved",
                hint="call run.step outside of jax.jit, with what the function returned",
            )
        if value.is_deleted():
            raise NotStorableError(f"this array {DONATED}")
        if not value.is_fully_addressable:
            raise NotStorableError(
                "an array that is spread over several processes cannot be saved yet",
                hint="gather it first: jax.experimental.multihost_utils.process_allgather",
            )
        platforms = {device.platform for device in value.sharding.device_set}
        device = None if platforms == {"cpu"} else "+".join(sorted(platforms))
        variant, raw = arrays.variant(value), arrays.raw_aval(value)
        kind = dtypes.from_numpy(np.dtype(raw.dtype))
        if kind is None:
            raise NotStorableError(f"an array of dtype {value.dtype} cannot be stored plainly")
        nbytes = math.prod(raw.shape) * kind.bits // 8
        return LeafInfo("jax", kind, raw.shape, nbytes, device=device, variant=variant, immutable=True)

    def same(self, value: Any, info: LeafInfo) -> bool:
        return not value.is_deleted()

    def copy(self, value: Any, out: memoryview) -> None:
        """As `TensorAdapter.copy`. Elements in host memory are read where they lie; as long as that lasts, XLA does not give
        the memory away."""
        try:
            value = arrays.raw(value)
            dtype = dtypes.dtype(np.dtype(value.dtype).name).numpy
            assert dtype is not None
            target = np.frombuffer(out, np.uint8).view(dtype).reshape(value.shape)
            for index, data in arrays.owned(value):
                place: tuple[Any, ...] = (*index, ...)
                np.copyto(_bytes(target[place]), _bytes(np.asarray(data)))
        except RuntimeError as error:
            if value.is_deleted():
                raise GoneError(DONATED) from error
            raise

    def copy_part(self, value: Any, start: int, out: memoryview) -> bool:
        """Copy the bytes from `start` on, as many as `out` has room for; False if only the whole can be copied."""
        if arrays.is_key(value) or value.is_deleted() or not arrays.on_one_device(value):
            return False
        content = np.asarray(value)
        if not content.flags.c_contiguous:
            return False
        out[:] = _bytes(content).reshape(-1)[start : start + len(out)].data
        return True

    def view(self, data: memoryview, tensor: Tensor) -> Saved:
        """The array in `data`, without a copy: to be read, and only while `data` is valid."""
        kind = dtypes.dtype(tensor.dtype).numpy
        if kind is None:
            raise FormatError(f"JAX has no dtype {tensor.dtype}")
        return Saved(np.frombuffer(data, np.uint8).view(kind).reshape(tensor.shape), tensor.variant)

    def empty(self, tensor: Tensor) -> None:
        return None  # arrays never change: theirs can only be made once all bytes are there

    def build(self, data: memoryview, tensor: Tensor) -> jax.Array:
        return arrays.make(self.view(data, tensor).data, tensor.variant)


def _bytes(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same memory as plain bytes along a last axis, which NumPy copies without holding the interpreter."""
    return array[..., None].view(np.uint8)


ADAPTER = JaxAdapter()
