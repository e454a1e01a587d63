"""Tensors of PyTorch as its pickles describe them: a storage somewhere in the file, and how a tensor lies in it.

After ``torch/_utils.py`` (what is called to rebuild each kind) and ``torch/storage.py`` (the names of storages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.dtypes import DType
from milepost.core.foreign import Foreign
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.pickle_numpy import NumpyArray
from milepost.formats.pickle_values import Dict, Global, Known, Leaf, Stored, Thing
from milepost.formats.place import Readable, Window, read_array
from milepost.formats.source import MOST_DIMENSIONS, as_array, spec

LARGEST_VIEW = 1024 * 1024 * 1024
"""Bytes that a tensor may have which is a view, with repetitions, of less than a `HIGHEST_RATIO`th of it."""
HIGHEST_RATIO = 200

STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64",
    "QInt8Storage": "int8", "QUInt8Storage": "uint8", "QInt32Storage": "int32", "QUInt4x2Storage": "uint8",
    "QUInt2x4Storage": "uint8", "UntypedStorage": "uint8",
}  # fmt: skip
"""Class of a storage -> type of its elements; of an untyped one, bytes."""
PACKED = {"QUInt4x2Storage": 2, "QUInt2x4Storage": 4}
"""Elements in a byte."""
DTYPES = {
    "double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32", "short": "int16",
    "cdouble": "complex128", "cfloat": "complex64", "chalf": "complex32", "qint8": "int8", "quint8": "uint8", "qint32": "int32",
    **{name: name for name in dtypes.TABLE},
}  # fmt: skip
"""Name in ``torch.`` -> type of elements."""


class Storage(Known):
    """A storage: its class, its size in elements, and how its bytes are got at."""

    __slots__ = ("big_endian", "cls", "count", "kind", "open")

    def __init__(self, cls: str, count: int, opened: Callable[[], Readable], *, big_endian: bool = False) -> None:
        self.cls, self.count, self.open, self.big_endian = cls, count, opened, big_endian
        self.kind = dtypes.dtype(STORAGES[cls])

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return -(-self.count // PACKED.get(self.cls, 1)) * (self.kind.bits // 8)


def storage_class(named: Any) -> str:
    """The key in `STORAGES` of a class that a pickle names, on whatever device: ``torch.cuda.FloatStorage`` ...

    Raises:
        FormatError: it is none.
    """
    if isinstance(named, Global) and named.module.partition(".")[0] == "torch" and named.name in STORAGES:
        return named.name
    raise FormatError("a storage of a kind that is not known", found=str(named)[:100])


class Tensor(Leaf):
    """A strided tensor; `scheme` says what the whole numbers of a quantized one mean, by mark."""

    __slots__ = ("attributes", "conjugate", "kind", "negative", "offset", "scheme", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, kind: DType | None = None) -> None:
        whole = (offset, *_sizes(shape), *_sizes(strides))
        if (
            not isinstance(storage, Storage)
            or len(shape) != len(strides)
            or any(type(number) is not int or not 0 <= number < 2**63 for number in whole)
        ):
            raise FormatError("a tensor is described in a way that none is", found=repr((offset, shape, strides))[:100])
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)
        self.kind = kind or storage.kind
        self.scheme: dict[str, Any] = {}
        self.attributes: Dict | None = None
        self.conjugate = self.negative = False

    def build(self, state: Any) -> None:
        """Attributes that were set on the tensor."""
        self.attributes = next((part for part in _pair(state) if isinstance(part, Dict)), None)

    def _span(self) -> int:
        """Elements from the first to the last."""
        if 0 in self.shape:
            return 0
        last: int = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return last + 1

    def parts(self, path: str, where: str) -> Iterator[tuple[str, Any]]:
        if self.storage.cls in PACKED:
            yield (
                "",
                Foreign(
                    "torch.Tensor",
                    {"dtype": self.storage.cls, "shape": list(self.shape)},
                    "packed numbers are not read",
                ),
            )
            return
        found = spec(self.kind, self.shape, where, path)
        size, span = self.kind.bits // 8, self._span()
        if span and (self.offset + span) * size > self.storage.nbytes:
            raise FormatError(
                f"tensor {path!r} reaches beyond its storage", where=where,
                expected=f"at most {self.storage.nbytes} bytes", found=f"{(self.offset + span) * size} bytes",
            )  # fmt: skip
        if found.nbytes > max(LARGEST_VIEW, HIGHEST_RATIO * span * size):
            raise UnsafeContentError(
                f"tensor {path!r} repeats little into far too much", where=where,
                found=f"{span * size} bytes as {found.nbytes}",
            )  # fmt: skip
        yield "", Stored(found, self._read, self._stands)
        yield from self.scheme.items()

    def _read(self) -> npt.NDArray[Any]:
        found = spec(self.kind, self.shape, "", "")
        size, span = self.kind.bits // 8, self._span()
        raw = read_array(self.storage.open(), self.offset * size, span * size)
        if not self._contiguous():
            # Where numpy has no such type, the bytes of an element are an axis of their own.
            steps = (*(stride * size for stride in self.strides), 1)
            raw = np.lib.stride_tricks.as_strided(raw, (*self.shape, size), steps).reshape(-1)
        made = as_array(raw, found, big_endian=self.storage.big_endian)
        if self.conjugate:
            made = np.conj(made)
        return -made if self.negative else made

    def _stands(self) -> tuple[Readable, int] | None:
        if not self._contiguous() or self.storage.big_endian or self.conjugate or self.negative:
            return None
        stored = self.storage.open()
        return (stored, self.offset * self.kind.bits // 8) if isinstance(stored, Window) else None

    def _contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return 0 in self.shape
            expected *= size
        return True


class Parts(Leaf):
    """A tensor that consists of others (sparse, nested ...), each under its mark."""

    __slots__ = ("kind", "marked")

    def __init__(self, kind: str, marked: dict[str, Any]) -> None:
        self.kind, self.marked = kind, marked

    def build(self, state: Any) -> None:
        """Attributes are not kept."""

    def parts(self, path: str, where: str) -> Iterator[tuple[str, Any]]:
        yield "layout", self.kind
        yield from self.marked.items()


def _sizes(value: Any) -> tuple[Any, ...]:
    if type(value) not in (tuple, list) or len(value) > MOST_DIMENSIONS:
        raise FormatError("a tensor has an impossible shape", found=repr(value)[:100])
    return tuple(value)


def _pair(state: Any) -> tuple[Any, ...]:
    return state if type(state) is tuple else (state,)


def kind_of(named: Any) -> DType:
    """The type of elements that a ``torch.dtype`` in a pickle stands for; `FormatError` if it is none."""
    name = named.content if isinstance(named, Foreign) and named.tag == "torch.dtype" else None
    if name not in DTYPES:
        raise FormatError("a tensor of a type that is not known", found=str(named)[:100])
    return dtypes.dtype(DTYPES[name])


def _marked(tensor: Tensor, metadata: Any) -> Tensor:
    if isinstance(metadata, Dict):
        tensor.conjugate, tensor.negative = metadata.get("conj") is True, metadata.get("neg") is True
    return tensor


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
    return Tensor(storage, offset, shape, strides)


def _tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any = None, hooks: Any = None, metadata: Any = None
) -> Any:
    return _marked(Tensor(storage, offset, shape, strides), metadata)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, kind: Any, metadata: Any = None
) -> Any:
    return _marked(Tensor(storage, offset, shape, strides, kind_of(kind)), metadata)


def _quantized(storage: Any, offset: Any, shape: Any, strides: Any, scheme: Any, *_: Any) -> Any:
    made = Tensor(storage, offset, shape, strides)
    if type(scheme) is not tuple or not scheme or not isinstance(scheme[0], Global):
        raise FormatError("a quantized tensor without a scheme")
    names = {3: ("scale", "zero_point"), 4: ("scales", "zero_points", "axis")}.get(len(scheme), ())
    if not names:
        raise FormatError("a quantized tensor with a scheme that is not known", found=str(scheme[0]))
    made.scheme = {"qscheme": scheme[0].name, **dict(zip(names, scheme[1:], strict=True))}
    return made


def _sparse(layout: Any, data: Any, *_: Any) -> Any:
    name = layout.content if isinstance(layout, Foreign) else None
    marks = {
        "sparse_coo": ("indices", "values", "size", "coalesced"),
        "sparse_csr": ("crow_indices", "col_indices", "values", "size"),
        "sparse_bsr": ("crow_indices", "col_indices", "values", "size"),
        "sparse_csc": ("ccol_indices", "row_indices", "values", "size"),
        "sparse_bsc": ("ccol_indices", "row_indices", "values", "size"),
    }.get(name or "")
    if marks is None or type(data) is not tuple or not 3 <= len(data) <= len(marks):
        raise FormatError("a sparse tensor of a layout that is not known", found=str(name)[:100])
    return Parts(str(name), dict(zip(marks, data, strict=False)))


def _nested(buffer: Any, sizes: Any, strides: Any, offsets: Any) -> Any:
    return Parts("nested", {"buffer": buffer, "sizes": sizes, "strides": strides, "offsets": offsets})


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _parameter_with_state(data: Any, grad: Any, hooks: Any, state: Any) -> Any:
    if isinstance(data, Known):
        data.build(state)
    return data


def _from_numpy(data: Any, *_: Any) -> Any:
    if not isinstance(data, NumpyArray):
        raise FormatError("a tensor of another device without its data")
    return data


def _without_data(*args: Any) -> Any:
    shape = next((list(arg) for arg in args if type(arg) is tuple), None)
    return Foreign("torch.Tensor", {"device": "meta", "shape": shape}, "a tensor without data")


def _layout(named: Any) -> Any:
    return Foreign("torch.layout", str(named).removeprefix("torch."))


def _device(kind: Any, index: Any = None) -> Any:
    return Foreign("torch.device", str(kind)[:100] if index is None else f"{kind}:{index}"[:100])


_JIT_LISTS = [
    f"torch.jit._pickle:{name}"
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
]


def rebuilds(call: Callable[[Any, tuple[Any, ...]], Any]) -> dict[str, Callable[..., Any]]:
    """``module:name`` -> what stands for calling it. `call` stands for calling a function that a pickle hands to another."""

    def from_type(function: Any, kind: Any, args: Any, state: Any = None) -> Any:
        if type(args) is not tuple:
            raise FormatError("a tensor of a subclass without arguments")
        made = call(function, args)
        if isinstance(made, Known) and state is not None:
            made.build(state)
        return made

    def subclass(cls: Any, *args: Any) -> Any:
        return Thing(cls, args) if isinstance(cls, Global) else _without_data(*args)

    in_utils: dict[str, Callable[..., Any]] = {
        "_rebuild_tensor": _tensor, "_rebuild_tensor_v2": _tensor_v2, "_rebuild_tensor_v3": _tensor_v3,
        "_rebuild_qtensor": _quantized, "_rebuild_sparse_tensor": _sparse, "_rebuild_sparse_csr_tensor": _sparse,
        "_rebuild_nested_tensor": _nested, "_rebuild_parameter": _parameter, "_rebuild_device_tensor_from_numpy": _from_numpy,
        "_rebuild_device_tensor_from_cpu_tensor": _parameter, "_rebuild_xla_tensor": _from_numpy,
        "_rebuild_meta_tensor_no_storage": _without_data, "_rebuild_wrapper_subclass": subclass,
        "_rebuild_parameter_with_state": _parameter_with_state,
    }  # fmt: skip
    return {
        **{f"torch._utils:{name}": function for name, function in in_utils.items()},
        "torch._tensor:_rebuild_from_type": from_type,
        "torch._tensor:_rebuild_from_type_v2": from_type,
        "torch.nn.parameter:Parameter": lambda data=None, *_: data,
        "torch.serialization:_get_layout": _layout,
        "torch:device": _device,
        "torch:Size": lambda sizes=(): _sizes(sizes),
        **dict.fromkeys(_JIT_LISTS, _parameter),
        "torch.jit._pickle:build_tensor_from_id": lambda key: Foreign("torch.Tensor", {"id": key}, "held in code"),
    }


CONSTANTS = {
    **{f"torch:{name}": Foreign("torch.dtype", name) for name in DTYPES},
    **{
        f"torch:{name}": Foreign("torch.layout", name)
        for name in ("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")
    },
    **{
        f"torch:{name}": Foreign("torch.memory_format", name)
        for name in ("contiguous_format", "channels_last", "channels_last_3d", "preserve_format")
    },
}
"""``module:name`` -> what stands for the name."""
