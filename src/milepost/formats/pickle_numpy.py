"""numpy's arrays, scalars and dtypes as pickles hold them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.dtypes import DType
from milepost.core.foreign import Foreign
from milepost.errors import FormatError
from milepost.formats import npy
from milepost.formats.pickle_values import Global, Known, Leaf, Long, Stored, Thing, short_bytes
from milepost.formats.source import as_array, spec


class NumpyType(Known):
    """A ``numpy.dtype``: its code (``f4``, or the name of one of ml_dtypes), and its byte order once that is set."""

    __slots__ = ("code", "order", "records")

    def __init__(self, code: str) -> None:
        self.code, self.order, self.records = code, "=", False

    def build(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise FormatError("a numpy dtype with a state that none has", found=repr(state)[:100])
        self.order = state[1]
        self.records = len(state) > 3 and state[3] is not None

    @property
    def objects(self) -> bool:
        """Whether elements are Python objects."""
        return self.code.startswith("O")

    def element(self, where: str) -> tuple[DType, tuple[int, ...], bool]:
        """As `milepost.formats.npy.element`."""
        if self.records:
            raise FormatError("arrays of records are not read", where=where)
        extended = dtypes.TABLE.get(self.code)
        return (extended, (), False) if extended is not None else npy.element(self.order + self.code, where)

    def plain(self) -> Any:
        """As a plain value."""
        if self.records or self.code in dtypes.TABLE:
            return Foreign("numpy.dtype", "record" if self.records else self.code)
        return np.dtype(self.order + self.code)


class NumpyArray(Leaf):
    """An array, empty until its state is set: (version, shape, dtype, whether in Fortran order, bytes or list of objects)."""

    __slots__ = ("axes", "data", "fortran", "kind", "shape")

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.kind = NumpyType("u1")
        self.fortran = False
        self.axes: tuple[int, ...] | None = None
        """Of an array in another order than C and Fortran: which axis of what is stored each axis is."""
        self.data: Any = b""

    def build(self, state: Any) -> None:
        if (
            type(state) is not tuple
            or len(state) != 5
            or not isinstance(state[2], NumpyType)
            or type(state[1]) is not tuple
        ):
            raise FormatError("a numpy array with a state that none has")
        _, self.shape, self.kind, fortran, data = state
        self.fortran = fortran is True
        self.data = data if isinstance(data, Long | list) else short_bytes(data)

    def parts(self, path: str, where: str) -> Iterator[tuple[str, Any]]:
        if self.kind.objects:
            if type(self.data) is not list or len(self.data) != math.prod(self.shape):
                raise FormatError(f"the array of objects {path!r} has another size than its shape says", where=where)
            yield "", self.data
            return
        if type(self.data) is list:
            raise FormatError(f"array {path!r} has no bytes", where=where)
        if self.kind.code[:1] in "US":
            yield "", self._text(path, where)
            return
        try:
            kind, inner, big_endian = self.kind.element(where)
        except FormatError as error:
            yield "", Foreign("numpy.ndarray", {"dtype": self.kind.code, "shape": list(self.shape)}, error.message)
            return
        found = spec(kind, (*self.shape, *inner), where, path)
        have = self.data.data.size if isinstance(self.data, Long) else len(self.data)
        if have != found.nbytes and not (isinstance(self.data, Long) and self.data.kind == "latin1"):
            raise FormatError(
                f"array {path!r} has another size than its shape says",
                where=where, expected=f"{found.nbytes} bytes", found=f"{have} bytes",
            )  # fmt: skip

        def read() -> npt.NDArray[Any]:
            raw = np.frombuffer(bytearray(self.data.read() if isinstance(self.data, Long) else self.data), np.uint8)
            axes = self.axes or tuple(reversed(range(len(self.shape)))) if self.axes or self.fortran else None
            if axes is None or inner:
                return as_array(raw, found, big_endian=big_endian)
            stored = tuple(found.shape[axes.index(axis)] for axis in range(len(axes)))
            turned = as_array(raw, found._replace(shape=stored), big_endian=big_endian)
            return np.ascontiguousarray(turned.transpose(axes))

        yield "", Stored(found, read)

    def _text(self, path: str, where: str) -> Any:
        kind = np.dtype(self.kind.order + self.kind.code)
        if isinstance(self.data, Long):
            return Foreign(
                "numpy.ndarray", {"dtype": self.kind.code, "shape": list(self.shape)}, "too much text to be shown"
            )
        if spec(dtypes.dtype("uint8"), (*self.shape, kind.itemsize), where, path).nbytes != len(self.data):
            raise FormatError(f"array {path!r} has another size than its shape says", where=where)
        if not self.data:
            return []
        return np.ndarray(self.shape, kind, self.data, order="F" if self.fortran else "C").tolist()


def _dtype(code: Any, *_: Any) -> Any:
    if isinstance(code, Global) and code.module == "ml_dtypes" and code.name in dtypes.TABLE:
        return NumpyType(code.name)
    if type(code) is not str or len(code) > 16:
        raise FormatError("a numpy dtype that is not known", found=str(code)[:100])
    return NumpyType(code)


def _reconstruct(cls: Any, *_: Any) -> Any:
    return NumpyArray()


def _frombuffer(data: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    """Protocol 5."""
    made = NumpyArray()
    made.build((1, shape, kind, order == "F", data))
    if axes is not None:
        if type(axes) is not tuple or type(shape) is not tuple or sorted(axes) != list(range(len(shape))):
            raise FormatError("a numpy array with axes that none has")
        made.axes = axes
        made.shape = tuple(shape[axis] for axis in axes)
    return made


def _scalar(kind: Any, data: Any = None) -> Any:
    if not isinstance(kind, NumpyType):
        raise FormatError("a numpy scalar without a dtype")
    if kind.objects:
        return data
    raw = short_bytes(data)
    if kind.code[:1] in "mM":
        return Thing(Global("numpy", "datetime64" if kind.code[0] == "M" else "timedelta64"), (kind.code, raw))
    found, _, big_endian = kind.element("")
    if found.numpy is None or len(raw) != found.numpy.itemsize:
        raise FormatError("a numpy scalar of a wrong length", found=f"{len(raw)} bytes")
    read = as_array(np.frombuffer(raw, np.uint8), spec(found, (1,), "", ""), big_endian=big_endian)
    return read[0]


def _jax_array(function: Any, args: Any, state: Any, *_: Any) -> Any:
    """An array of JAX, which is pickled as the array of numpy that it becomes, and whether its type is weak."""
    made = NumpyArray()
    made.build(state)
    return made


_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
NUMPY = {
    "numpy:dtype": _dtype,
    "numpy:ndarray": lambda *_: NumpyArray(),
    **{f"{module}:_reconstruct": _reconstruct for module in _MODULES},
    **{f"{module}:scalar": _scalar for module in _MODULES},
    **{f"{module}:_frombuffer": _frombuffer for module in _MODULES},
    "jax._src.array:_reconstruct_array": _jax_array,
    "jax._src.device_array:reconstruct_device_array": _jax_array,
}
"""What stands for calls of numpy's."""
