"""NumPy arrays (and ml_dtypes' element types) as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from milepost.core import dtypes
from milepost.core.adapter import LeafInfo
from milepost.core.manifest import Tensor
from milepost.errors import FormatError, NotStorableError


class NumpyAdapter:
    """See `milepost.core.adapter.TensorAdapter`."""

    def is_tensor(self, kind: type) -> bool:
        return issubclass(kind, np.ndarray)

    def describe(self, value: np.ndarray[Any, Any]) -> LeafInfo:
        kind = dtypes.from_numpy(value.dtype)
        if kind is None:
            raise NotStorableError(
                f"an array of dtype {value.dtype} cannot be stored plainly",
                hint="convert it to a numeric dtype, or to a list of plain values",
            )
        native = value.dtype.isnative
        contiguous = value.flags.c_contiguous and native
        address = value.ctypes.data if value.nbytes else 0
        strides = None
        if not value.flags.c_contiguous and value.ndim:
            strides = tuple(step // value.itemsize for step in value.strides)
        memory = (address, value.dtype.str, value.shape, value.strides) if value.nbytes else None
        return LeafInfo(
            "numpy", kind, value.shape, value.nbytes, strides, None, memory, address if contiguous else None
        )

    def same(self, value: np.ndarray[Any, Any], info: LeafInfo) -> bool:
        return self.describe(value) == info  # shape and strides of an array can be set

    def copy(self, value: np.ndarray[Any, Any], out: memoryview) -> None:
        target = np.frombuffer(out, value.dtype.newbyteorder("=")).reshape(value.shape)
        np.copyto(target, value, casting="equiv")

    def copy_part(self, value: np.ndarray[Any, Any], start: int, out: memoryview) -> bool:
        return False  # those that lie in C order have an address

    def empty(self, tensor: Tensor) -> tuple[np.ndarray[Any, Any], memoryview] | None:
        kind = dtypes.dtype(tensor.dtype).numpy
        if kind is None or tensor.strides is not None:
            return None
        made = np.empty(tensor.shape, kind)
        return made, made.reshape(-1).view(np.uint8).data

    def build(self, data: memoryview, tensor: Tensor) -> np.ndarray[Any, Any]:
        kind = dtypes.dtype(tensor.dtype).numpy
        if kind is None:
            raise FormatError(f"numpy has no dtype {tensor.dtype}", hint="import the framework that saved it first")
        made = np.frombuffer(data, kind).reshape(tensor.shape)
        if tensor.strides is None:
            return made.copy()
        # A view of overlapping or reversed memory comes back as an array of its own in C order; other orders are kept.
        axes = sorted(range(made.ndim), key=lambda axis: -abs(tensor.strides[axis] if tensor.strides else 0))
        out = np.empty([made.shape[axis] for axis in axes], kind).transpose(np.argsort(axes))
        out[...] = made
        return out


ADAPTER = NumpyAdapter()
