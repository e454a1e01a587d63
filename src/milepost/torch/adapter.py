"""PyTorch tensors: described, copied out, made anew."""

from __future__ import annotations

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from milepost.core import dtypes
from milepost.core.adapter import LeafInfo
from milepost.core.manifest import Tensor
from milepost.errors import NotStorableError

DTYPES = {
    getattr(torch, name): dtypes.dtype(name)
    for name in (
        "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
        "float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128",
        "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2",
    )
    if hasattr(torch, name)
}  # fmt: skip
"""torch's dtypes -> ours. Quantised and sub-byte integer dtypes are not among them."""

BY_NAME = {kind.name: dtype for dtype, kind in DTYPES.items()}


class TorchAdapter:
    """See `milepost.core.adapter.TensorAdapter`."""

    def is_tensor(self, kind: type) -> bool:
        return issubclass(kind, torch.Tensor)

    def describe(self, value: torch.Tensor) -> LeafInfo:
        if isinstance(value, (UninitializedParameter, UninitializedBuffer)):
            raise NotStorableError(
                "a parameter of a lazy module is not initialised yet", hint="run one batch through the module first"
            )
        kind = DTYPES.get(value.dtype)
        device = value.device
        if kind is None or device.type == "meta" or value.layout is not torch.strided:
            raise self._refusal(value)
        shape = tuple(value.shape)
        contiguous = value.is_contiguous()
        plain = contiguous and not value.is_conj() and not value.is_neg()
        pointer = value.data_ptr()
        strides = None if contiguous else value.stride()
        nbytes = value.numel() * value.element_size()
        where = None if device.type == "cpu" else str(device)
        address = pointer if plain and where is None else None
        return LeafInfo(
            "torch",
            kind,
            shape,
            nbytes,
            strides,
            where,
            (pointer, kind.name, shape, strides) if nbytes else None,
            address,
        )

    def same(self, value: torch.Tensor, info: LeafInfo) -> bool:
        # Setting `.data` and the in-place resizing functions are all that changes a tensor object; they move or reshape it. This
        # is five times faster than describing it again.
        memory = info.memory
        return (
            isinstance(memory, tuple)
            and value.data_ptr() == memory[0]
            and value.shape == info.shape
            and value.dtype is BY_NAME[memory[1]]
            and (value.is_contiguous() if info.strides is None else value.stride() == info.strides)
        )

    def _refusal(self, value: torch.Tensor) -> NotStorableError:
        if value.device.type == "meta":
            return NotStorableError(
                "a tensor on the meta device has no values to save",
                hint="materialise the module first: module.to_empty(...)",
            )
        if value.layout is not torch.strided:
            return NotStorableError(
                f"a tensor of layout {value.layout} cannot be stored plainly",
                hint="store its parts: .indices() and .values(), or .to_dense()",
            )
        return NotStorableError(
            f"a tensor of dtype {value.dtype} cannot be stored plainly",
            hint="store .int_repr() and its scale, or dequantize it",
        )

    def copy(self, value: torch.Tensor, out: memoryview) -> None:
        # torch.frombuffer wants an element type without a sign or conjugate bit pending: copy_ resolves those.
        target = torch.frombuffer(out, dtype=torch.uint8).view(value.dtype).view(value.shape)
        target.copy_(value.detach())

    def copy_part(self, value: torch.Tensor, start: int, out: memoryview) -> bool:
        return False  # those that lie in C order have an address

    def view(self, data: memoryview, tensor: Tensor) -> torch.Tensor:
        """A tensor over `data` (bytes in C order), without a copy: to be read, and only while `data` is valid."""
        dtype = BY_NAME[tensor.dtype]
        if not len(data):
            return torch.empty(tensor.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=torch.uint8).view(dtype).view(tensor.shape)

    def empty(self, tensor: Tensor) -> tuple[torch.Tensor, memoryview] | None:
        made = _empty(tensor)
        if not made.is_cpu or not made.is_contiguous():
            return None
        return made, made.view(-1).view(torch.uint8).numpy().data

    def build(self, data: memoryview, tensor: Tensor) -> torch.Tensor:
        return _empty(tensor).copy_(self.view(data, tensor))


def _empty(tensor: Tensor) -> torch.Tensor:
    """A tensor with the dtype, shape and strides of `tensor`, where it was if that device is here. Overlapping memory (expanded
    tensors) comes back as memory of its own."""
    dtype, device = BY_NAME[tensor.dtype], usable_device(tensor.device)
    if tensor.strides is None or not _is_dense(tensor.shape, tensor.strides):
        return torch.empty(tensor.shape, dtype=dtype, device=device)
    return torch.empty_strided(tensor.shape, tensor.strides, dtype=dtype, device=device)


def usable_device(saved: str | None) -> torch.device:
    """The device a tensor was saved from if this process has it, else the CPU. (CUDA and MPS: not exercised in our tests.)"""
    if saved is None:
        return torch.device("cpu")
    device = torch.device(saved)
    if device.type == "cuda" and (device.index or 0) < torch.cuda.device_count():
        return device
    if device.type == "mps" and torch.backends.mps.is_available():
        return device
    return torch.device("cpu")


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether no two elements share memory and none is skipped: the elements fill their span exactly."""
    expected = 1
    for size, stride in sorted(zip(shape, strides, strict=True), key=lambda axis: axis[1]):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


ADAPTER = TorchAdapter()
