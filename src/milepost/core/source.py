"""The one read interface: anything tensors can be read from.

Everything that looks (show, diff, stats, verify, export, transfer, the web page) is written over `TensorSource`, never over a
format.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy.typing as npt

from milepost.core.dtypes import DType

BLOCK = 1 << 20
"""Bytes that `TensorSource.blocks` yields at a time: what was just read is still in a core's cache when it is looked at."""


class TensorSpec(NamedTuple):
    """Element type, shape, and size in bytes as C-contiguous elements."""

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


class TensorSource(Mapping[str, npt.NDArray[Any]]):
    """A read-only mapping from path to array; arrays are read on demand and checked where the source has digests.

    Example:
        >>> source = milepost.open("runs/mnist@best")
        >>> source["model/fc1.weight"].shape
        (512, 784)
    """

    notes: Mapping[str, str] = {}
    """By path, of tensors and of groups: a word on it, as the name it had in the program, or how it is stored."""

    @property
    @abstractmethod
    def where(self) -> str:
        """The place, for people: a path or URL."""

    @property
    @abstractmethod
    def specs(self) -> Mapping[str, TensorSpec]:
        """What each tensor is, without reading it."""

    @property
    @abstractmethod
    def plain(self) -> Mapping[str, Any]:
        """The plain values beside the tensors, by path."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """What is known of the source as a whole: format, who wrote it, step, metrics."""

    @abstractmethod
    def __getitem__(self, path: str) -> npt.NDArray[Any]:
        """The tensor at `path`, C-contiguous and read-only; ml_dtypes for bfloat16 and float8; bytes (uint8) where numpy
        has no such type.

        Raises:
            NotFoundError: no such tensor.
            DamagedError: its bytes differ from their digest.
        """

    def blocks(self, path: str) -> Iterator[npt.NDArray[Any]]:
        """The elements of the tensor at `path` in C order, in flat arrays of at most `BLOCK` bytes, for looking at each once: the
        next may be read into the same memory. Where one tensor can be read in pieces, no more of it is held.

        Raises:
            as ``self[path]`` does; what differs from a digest may be known only after the last block.
        """
        flat = self[path].reshape(-1)
        step = max(1, BLOCK // max(1, flat.itemsize))
        for start in range(0, flat.size, step):
            yield flat[start : start + step]

    def digest(self, path: str) -> str | None:
        """What stands for the bytes of the tensor at `path`, known without reading them: equal only where type, shape and bytes
        are. None if it is not known."""
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def __contains__(self, path: object) -> bool:
        return path in self.specs  # a mapping would read the tensor

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.where}: {len(self)} tensors>"
