"""HDF5 files, listed and read by h5py; runs in a process of its own (`milepost.formats.child`).

The file is a descriptor, so that nothing here opens a path. What leads out of the file is refused: external links, external
storage, virtual datasets, soft links to what is not there.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from milepost.formats.child_serve import Answer, RefusedError, serve

MEMORY = 256 * 1024 * 1024
MOST_OBJECTS = 100_000
DEEPEST = 64
LARGEST_TEXT = 16 * 1024 * 1024
"""Bytes of all attributes and text."""
LARGEST_CHUNK = 64 * 1024 * 1024
PIECE = 16 * 1024 * 1024
HIGHEST_RATIO = 1100
"""deflate makes at most about 1,030 bytes of one."""

_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})  # HDF5's own, and h5py's LZF


class Part(io.RawIOBase):
    """A part of the file as the file that HDF5 sees."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        super().__init__()
        self._fd, self._offset, self._size, self._at = fd, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, out: Any) -> int:
        view = memoryview(out).cast("B")[: max(0, self._size - self._at)]
        got = os.preadv(self._fd, [view], self._offset + self._at) if view else 0
        self._at += got
        return got


class Listing:
    """Goes through a file once."""

    def __init__(self, file: h5py.File) -> None:
        self.tensors: list[tuple[str, str, list[int], int | None, bool]] = []
        self.plain: list[tuple[str, Any]] = []
        self.datasets: dict[str, Any] = {}
        self._text_left = LARGEST_TEXT
        self._soft: list[tuple[str, str]] = []
        self._paths: dict[int, str] = {}
        self._visit(file.id, "", 0)
        known = set(self._paths.values())
        for path, target in self._soft:
            if target.strip("/") not in known:
                raise RefusedError(
                    "a soft link leads to what is not in the file", f"{path} -> {target}"[:200], unsafe=True
                )
            self.plain.append((path, f"a link to {target}"))

    def _visit(self, item: Any, path: str, depth: int) -> None:
        address = h5py.h5o.get_info(item).addr
        if address in self._paths:
            self.plain.append((path, f"the same as {self._paths[address] or '/'}"))
            return
        if len(self._paths) >= MOST_OBJECTS or depth > DEEPEST:
            raise RefusedError("more objects than any model has, or too deep", unsafe=True)
        self._paths[address] = path
        self._attributes(item, path)
        if isinstance(item, h5py.h5d.DatasetID):
            self._dataset(item, path)
        if not isinstance(item, h5py.h5g.GroupID):
            return
        for raw in sorted(item, key=_natural):
            inner = os.path.join(path, raw.decode("utf-8", "surrogateescape"))
            link = item.links.get_info(raw)
            if link.type == h5py.h5l.TYPE_EXTERNAL:
                raise RefusedError("a link leads to another file", ascii(inner)[:200], unsafe=True)
            if link.type == h5py.h5l.TYPE_SOFT:
                target = item.links.get_val(raw).decode("utf-8", "surrogateescape")
                self._soft.append((inner, target if target.startswith("/") else os.path.join(path, target)))
            elif link.type == h5py.h5l.TYPE_HARD:
                self._visit(h5py.h5o.open(item, raw), inner, depth + 1)
            else:
                raise RefusedError("a link of an unknown kind", ascii(inner)[:200], unsafe=True)

    def _dataset(self, item: Any, path: str) -> None:
        how = item.get_create_plist()
        if how.get_external_count():
            raise RefusedError("the numbers of a dataset are in another file", ascii(path)[:200], unsafe=True)
        if how.get_layout() == h5py.h5d.VIRTUAL:
            raise RefusedError("a dataset is made of other files", ascii(path)[:200], unsafe=True)
        kind, shape = item.dtype, list(item.shape or ())
        text = h5py.check_string_dtype(kind)
        if text is not None or kind.kind == "S":
            self.plain.append((path, self._text(h5py.Dataset(item))))
            return
        name = _name(item, kind)
        if name is None or item.shape is None:
            self.plain.append((path, f"not read: {kind}"))
            return
        # Where nothing is allocated the offset is no offset, and every number is the fill value.
        plainly = how.get_layout() == h5py.h5d.CONTIGUOUS and not how.get_nfilters()
        plainly = plainly and item.get_space_status() == h5py.h5d.SPACE_STATUS_ALLOCATED
        self.tensors.append((path, name, shape, item.get_offset() if plainly else None, kind.str.startswith(">")))
        self.datasets[path] = item

    def _attributes(self, item: Any, path: str) -> None:
        for raw in [h5py.h5a.open(item, index=index).name for index in range(h5py.h5a.get_num_attrs(item))]:
            found = h5py.h5a.open(item, raw)
            points = found.get_space().get_simple_extent_npoints()
            self._text_left -= points * found.get_type().get_size() + len(raw)
            if self._text_left < 0:
                raise RefusedError("more text than any model has", unsafe=True)
            name = os.path.join(path, raw.decode("utf-8", "surrogateescape"))
            try:
                value = h5py.AttributeManager(h5py.Group(item) if path == "" else _holder(item))[raw]
            except (OSError, TypeError, ValueError, KeyError):
                self.plain.append((name, "not read"))
                continue
            self.plain.append((name, self._plainly(value)))

    def _text(self, data: h5py.Dataset) -> Any:
        if (
            math.prod(data.shape or ()) > LARGEST_TEXT // 16
            or data.dtype.itemsize * math.prod(data.shape or ()) > LARGEST_TEXT
        ):
            return "not read: more text than is shown"
        return self._plainly(data[()])

    def _plainly(self, value: Any) -> Any:
        """`value` as JSON can say it."""
        if isinstance(value, np.ndarray):
            return [self._plainly(one) for one in value]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            self._text_left -= len(value)
            if self._text_left < 0:
                raise RefusedError("more text than any model has", unsafe=True)
            return value
        return value if isinstance(value, bool | int | float) else f"not read: {type(value).__name__}"


def _holder(item: Any) -> Any:
    return h5py.Dataset(item) if isinstance(item, h5py.h5d.DatasetID) else h5py.Group(item) if isinstance(
        item, h5py.h5g.GroupID
    ) else h5py.Datatype(item)  # fmt: skip


def _natural(name: bytes) -> tuple[int, int, bytes]:
    """Numbers by size, before names."""
    return (0, int(name), name) if name.isdigit() and len(name) < 19 else (1, 0, name)


def _name(item: Any, kind: np.dtype[Any]) -> str | None:
    """The element type in our words; None if it is not read."""
    if kind.kind in "biufc" and kind.itemsize <= 16:
        return kind.newbyteorder("=").name
    if kind.kind == "V" and kind.itemsize == 2 and kind.fields is None and kind.subdtype is None:
        # Keras keeps bfloat16 so, and says it beside.
        told = h5py.Dataset(item).attrs.get("dtype")
        return "bfloat16" if told in ("bfloat16", b"bfloat16") else None
    return None


class File:
    """The file, once it is open."""

    def __init__(self) -> None:
        self._found: Listing | None = None

    def open(self, fd: int, offset: int, size: int) -> Answer:
        file = h5py.File(io.BufferedReader(Part(fd, offset, size), 65536), "r")
        self._found = Listing(file)
        return {"tensors": self._found.tensors, "plain": self._found.plain}, None

    def read(self, path: str, nbytes: int) -> Answer:
        assert self._found is not None
        item = self._found.datasets[path]
        how = item.get_create_plist()
        unknown = {how.get_filter(index)[0] for index in range(how.get_nfilters())} - _FILTERS
        if unknown:
            raise RefusedError("a dataset is compressed in an unknown way", f"filter {min(unknown)}")
        chunk = how.get_chunk() if how.get_layout() == h5py.h5d.CHUNKED else ()
        if chunk and math.prod(chunk) * item.dtype.itemsize > LARGEST_CHUNK:
            raise RefusedError("a chunk of a dataset is impossibly large", repr(chunk)[:200], unsafe=True)
        if nbytes > LARGEST_CHUNK and nbytes > HIGHEST_RATIO * item.get_storage_size():
            raise RefusedError(
                "a dataset is said to be far larger than it is",
                f"{item.get_storage_size()} bytes for {nbytes}",
                unsafe=True,
            )
        data = h5py.Dataset(item)
        if not data.shape or nbytes <= PIECE:
            whole = np.asarray(data[()])
            return None, iter([np.ascontiguousarray(whole).tobytes()])
        row = nbytes // data.shape[0]
        step = max(1, PIECE // row)
        if chunk and chunk[0] * row <= 2 * LARGEST_CHUNK:
            step = -(-step // chunk[0]) * chunk[0]  # or chunks are unpacked over and over
        return None, self._rows(data, step)

    def checked(self) -> Answer:
        """The datasets whose chunks have checksums, which are compared when they are read."""
        assert self._found is not None
        found = []
        for path, item in self._found.datasets.items():
            how = item.get_create_plist()
            if h5py.h5z.FILTER_FLETCHER32 in {how.get_filter(index)[0] for index in range(how.get_nfilters())}:
                found.append(path)
        return found, None

    def _rows(self, data: h5py.Dataset, step: int) -> Iterator[bytes]:
        for first in range(0, data.shape[0], step):
            yield np.ascontiguousarray(data[first : first + step]).tobytes()


def main() -> None:
    """Serve one file."""
    file = File()
    serve(MEMORY, {"open": file.open, "read": file.read, "checked": file.checked})
