"""What the sources of all formats have in common: bounds on what a file may claim, and errors of one kind."""

from __future__ import annotations

import math
import re
import struct
import zlib
from abc import abstractmethod
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core.dtypes import DType
from milepost.core.layout import nbytes
from milepost.core.paths import Marked, escape, join, split
from milepost.core.source import BLOCK, TensorSource, TensorSpec
from milepost.errors import FormatError, NotFoundError, UnsafeContentError
from milepost.formats.place import Readable

MOST_DIMENSIONS = 64
"""As numpy has it."""
MOST_NAMESAKES = 20
LARGEST = 2**62
"""Bytes of a tensor, and elements along all of its non-empty dimensions."""


class FormatSource(TensorSource):
    """A `TensorSource` of a format that milepost does not write.

    A subclass says how one tensor is read (`_read`); everything else is found out before, when the file is opened.

    Args:
        where: the place, for people.
        specs: path -> what the tensor is, as `spec` makes it.
        plain: path -> plain value.
        metadata: ``format`` (in words) and what else is known: ``version``, ``written_by``, ``step``, ``epoch`` ...
    """

    def __init__(
        self, where: str, specs: Mapping[str, TensorSpec], plain: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> None:
        self._where, self._specs, self._plain, self._metadata = where, specs, plain, metadata

    @property
    def where(self) -> str:
        return self._where

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        return self._specs

    @property
    def plain(self) -> Mapping[str, Any]:
        return self._plain

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._metadata

    def __getitem__(self, path: str) -> npt.NDArray[Any]:
        spec = self._specs.get(path)
        if spec is None:
            raise NotFoundError(
                f"there is no tensor {path!r}", where=self.where, hint="`milepost show` lists what is there"
            )
        with parsing(self.where):
            array = self._read(path, spec)
        array.flags.writeable = False
        return array

    @abstractmethod
    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        """The tensor at `path`: an array of its own, as `as_array` makes it."""

    def _stands(self, path: str) -> tuple[Readable, int] | None:
        """What the elements of the tensor at `path` can be read from as they are (little-endian, in C order), and from which byte
        on; None if only `_read` can. Then it is read in blocks."""
        return None

    def blocks(self, path: str) -> Iterator[npt.NDArray[Any]]:
        spec = self._specs.get(path)
        kind = None if spec is None else spec.dtype.numpy
        with parsing(self.where):
            at = None if spec is None or kind is None or spec.nbytes <= BLOCK else self._stands(path)
        if spec is None or kind is None or at is None:
            yield from super().blocks(path)
            return
        readable, offset = at
        room = np.empty(BLOCK, np.uint8)
        for start in range(0, spec.nbytes, BLOCK):
            piece = room[: spec.nbytes - start]
            with parsing(self.where):
                readable.read_into(offset + start, piece.data)
            yield piece.view(kind)


class Nothing(FormatSource):
    """A source with plain values and no tensors."""

    def __init__(self, where: str, plain: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        super().__init__(where, {}, plain, metadata)

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        raise AssertionError("there are no tensors")


def spec(kind: DType, shape: tuple[int, ...], where: str, path: str) -> TensorSpec:
    """What a tensor is, if there can be such a tensor.

    Raises:
        FormatError: a shape that no array has.
    """
    found = _spec(kind, shape) if _INT.issuperset(map(type, shape)) else "has an impossible shape"
    if isinstance(found, str):
        raise FormatError(f"tensor {path!r} {found}", where=where, found=repr(shape)[:200])
    return found


_INT = frozenset({int})


@lru_cache(4096)  # most tensors have the shape of another one
def _spec(kind: DType, shape: tuple[int, ...]) -> TensorSpec | str:
    """A tensor, or why there is none such."""
    if len(shape) > MOST_DIMENSIONS or any(size < 0 for size in shape):
        return "has an impossible shape"
    if math.prod(size for size in shape if size) * max(kind.bits, 8) // 8 > LARGEST:
        return "is impossibly large"
    return TensorSpec(kind, shape, nbytes(kind, shape))


def as_array(data: npt.NDArray[np.uint8], spec: TensorSpec, *, big_endian: bool = False) -> npt.NDArray[Any]:
    """The array that `data`, exactly ``spec.nbytes`` bytes in C order, stands for; bytes where numpy has no such type.

    Raises:
        FormatError: another number of bytes.
    """
    if data.nbytes != spec.nbytes:
        raise FormatError(
            "a tensor has another size than its shape says",
            expected=f"{spec.nbytes} bytes",
            found=f"{data.nbytes} bytes",
        )
    kind = spec.dtype.numpy
    if big_endian and spec.dtype.bits > 8:
        part = spec.dtype.bits // 8 // (2 if spec.dtype.name.startswith("complex") else 1)
        data = np.ascontiguousarray(data.reshape(-1, part)[:, ::-1]).reshape(-1)
    return data if kind is None else data.view(kind).reshape(spec.shape)


_PLAIN = re.compile(r"(?:[^/~\ud800-\udfff]+(?:/(?!$)|$))+")


def divided(name: str) -> str:
    """The path of a name in which slashes divide the levels already.

    Example:
        >>> divided("dense/kernel"), divided("/a~b")
        ('dense/kernel', '~/a~0b')
    """
    return name if _PLAIN.fullmatch(name) else "/".join(map(escape, name.split("/")))


def unused(path: str, *taken: Container[str]) -> str:
    """`path`, its last part marked with a number if another value has that path already.

    Raises:
        UnsafeContentError: `MOST_NAMESAKES` have it.
    """
    for paths in taken:
        if path in paths:
            break
    else:
        return path
    *above, last = split(path)
    text = last.text if isinstance(last, Marked) else last
    for number in range(2, MOST_NAMESAKES + 1):
        marked = join([*above, Marked(text, f"n{number}")])
        if not any(marked in paths for paths in taken):
            return marked
    raise UnsafeContentError("too many tensors have one name", found=path[:200])


@contextmanager
def parsing(where: str) -> Iterator[None]:
    """Word what goes wrong in code that reads a file nobody vouches for.

    Every check of its own raises `FormatError` with what was found. This is for what the libraries below raise on bytes that
    they cannot make sense of.
    """
    try:
        yield
    except (
        ValueError,
        LookupError,
        ArithmeticError,
        EOFError,
        RecursionError,
        TypeError,
        struct.error,
        zlib.error,
    ) as error:
        raise FormatError(
            "the file cannot be understood: it is damaged, or was made to mislead", where=where, found=str(error)[:200]
        ) from error
    except MemoryError as error:
        raise UnsafeContentError("the file asks for more memory than there is", where=where) from error
