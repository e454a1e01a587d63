"""HDF5 files, listed and read by h5py; runs in a process of its own (`milepost.formats.child`).

The file is a descriptor, so that nothing here opens a path. What leads out of the file is refused: external links, external
storage, virtual datasets, soft links to what is not there.
"""

from __future__ import annotations

import io
import math
import os
import sys
from typing import Any

import h5py
import numpy as np

from milepost.formats import bounds
from milepost.formats.child_serve import Answer, RefusedError, serve
from milepost.formats.hdf5_types import Element, described, element

MEMORY = 200 * 1024 * 1024
MOST_OBJECTS = 100_000
DEEPEST = 64
LARGEST_TEXT = 16 * 1024 * 1024
"""Bytes of all attributes and text."""
LARGEST_CHUNK = 32 * 1024 * 1024
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
        self.elements: dict[str, Element] = {}
        self._most, self._text_left = bounds.most(MOST_OBJECTS), bounds.most(LARGEST_TEXT)
        self._soft: list[tuple[str, str]] = []
        self._paths = {h5py.h5o.get_info(file.id).addr: ""}
        self._group(file.id, "", 0)
        known = set(self._paths.values())
        for path, target in self._soft:
            if target.strip("/") not in known:
                raise RefusedError(
                    "a soft link leads to what is not in the file", f"{path} -> {target}"[:200], unsafe=True
                )
            self.plain.append((path, f"a link to {target}"))

    def _group(self, group: Any, path: str, depth: int) -> None:
        if depth > DEEPEST:
            raise RefusedError("groups are in groups, deeper than in any model", ascii(path)[:200], unsafe=True)
        self._attributes(group, h5py.Group, path)
        links: list[tuple[bytes, int, int]] = []
        group.links.iterate(lambda name, link: links.append((name, link.type, link.u)), info=True)
        for raw, kind, address in sorted(links, key=lambda found: _natural(found[0])):
            name = raw.decode("utf-8", "surrogateescape")
            inner = f"{path}/{name}" if path else name
            if kind == h5py.h5l.TYPE_EXTERNAL:
                raise RefusedError("a link leads to another file", ascii(inner)[:200], unsafe=True)
            if kind == h5py.h5l.TYPE_SOFT:
                target = group.links.get_val(raw).decode("utf-8", "surrogateescape")
                self._soft.append((inner, target if target.startswith("/") else os.path.join(path, target)))
            elif kind != h5py.h5l.TYPE_HARD:
                raise RefusedError("a link of an unknown kind", ascii(inner)[:200], unsafe=True)
            elif address in self._paths:
                self.plain.append((inner, f"the same as {self._paths[address] or '/'}"))
            elif len(self._paths) >= self._most:
                raise RefusedError("more objects than any model has", f"more than {self._most:,}", beyond=True)
            else:
                self._paths[address] = inner
                self._object(h5py.h5o.open(group, raw), inner, depth + 1)

    def _object(self, item: Any, path: str, depth: int) -> None:
        if isinstance(item, h5py.h5g.GroupID):
            self._group(item, path, depth)
        elif isinstance(item, h5py.h5d.DatasetID):
            self._attributes(item, h5py.Dataset, path)
            self._dataset(item, path)

    def _dataset(self, item: Any, path: str) -> None:
        # An offset is there if the numbers stand in this file, in one piece and as they are; or it means nothing, if none were
        # written and all are the fill value.
        at = item.get_offset() if item.get_space_status() == h5py.h5d.SPACE_STATUS_ALLOCATED else None
        if at is None:
            how = item.get_create_plist()
            if how.get_external_count():
                raise RefusedError("the numbers of a dataset are in another file", ascii(path)[:200], unsafe=True)
            if how.get_layout() == h5py.h5d.VIRTUAL:
                raise RefusedError("a dataset is made of other files", ascii(path)[:200], unsafe=True)
        kind, shape = item.get_type(), item.shape
        if isinstance(kind, h5py.h5t.TypeStringID) and shape is not None:
            self.plain.append((path, self._text(item)))
            return
        said = h5py.Dataset(item).attrs.get("dtype") if isinstance(kind, h5py.h5t.TypeOpaqueID) else None
        found = None if shape is None else element(kind, said)
        if found is None:
            self.plain.append((path, "nothing" if shape is None else described(kind)))
            return
        whole = [*shape, *([] if found.size is None else [found.size])]
        self.tensors.append((path, found.name, whole, at if found.exact else None, found.big_endian))
        self.elements[path] = found

    def _attributes(self, item: Any, kind: type[Any], path: str) -> None:
        count = h5py.h5a.get_num_attrs(item)
        if not count:
            return  # before what takes a while
        holder = kind(item)
        for raw in [h5py.h5a.open(item, index=index).name for index in range(count)]:
            found = h5py.h5a.open(item, raw)
            points = found.get_space().get_simple_extent_npoints()
            self._text_left -= points * found.get_type().get_size() + len(raw)
            if self._text_left < 0:
                raise RefusedError("more text than any model has", beyond=True)
            name = os.path.join(path, raw.decode("utf-8", "surrogateescape"))
            try:
                value = holder.attrs[raw]
            except (OSError, TypeError, ValueError, KeyError):
                self.plain.append((name, "not read"))
                continue
            self.plain.append((name, self._plainly(value)))

    def _text(self, item: Any) -> Any:
        count, size = math.prod(item.shape), item.get_type().get_size()
        if count > LARGEST_TEXT // 16 or size * count > LARGEST_TEXT:
            return "not read: more text than is shown"
        return self._plainly(h5py.Dataset(item)[()])

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
                raise RefusedError("more text than any model has", beyond=True)
            return value
        return value if isinstance(value, bool | int | float) else f"not read: {type(value).__name__}"


def _filters(item: Any) -> set[int]:
    """What the chunks of a dataset go through when they are read."""
    how = item.get_create_plist()
    return {how.get_filter(index)[0] for index in range(how.get_nfilters())}


def _natural(name: bytes) -> tuple[int, int, bytes]:
    """Numbers by size, before names."""
    return (0, int(name), name) if name.isdigit() and len(name) < 19 else (1, 0, name)


class File:
    """The file, once it is open: the descriptor that the process was given."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._file: h5py.File | None = None
        self._found: Listing | None = None

    def open(self, offset: int, size: int) -> Answer:
        self._file = h5py.File(io.BufferedReader(Part(self._fd, offset, size), 65536), "r")
        self._found = Listing(self._file)
        return {"tensors": self._found.tensors, "plain": self._found.plain}, None

    def read(self, path: str, nbytes: int) -> Answer:
        assert self._found is not None
        kind, item = self._found.elements[path], self._dataset(path)
        how = item.get_create_plist()
        unknown = _filters(item) - _FILTERS
        if unknown:
            raise RefusedError("a dataset is compressed in an unknown way", f"filter {min(unknown)}")
        chunk = how.get_chunk() if how.get_layout() == h5py.h5d.CHUNKED else ()
        if chunk and math.prod(chunk) * item.get_type().get_size() > LARGEST_CHUNK:
            raise RefusedError("a chunk of a dataset is impossibly large", repr(chunk)[:200], unsafe=True)
        if nbytes > LARGEST_CHUNK and nbytes > HIGHEST_RATIO * item.get_storage_size():
            raise RefusedError(
                "a dataset is said to be far larger than it is",
                f"{item.get_storage_size()} bytes for {nbytes}",
                unsafe=True,
            )
        if not item.shape or nbytes <= PIECE:
            return None, iter([self._rows(item, kind, 0, item.shape[0] if item.shape else None)])
        row = nbytes // item.shape[0]
        step = max(1, PIECE // row)
        if chunk and chunk[0] * row <= 2 * LARGEST_CHUNK:
            step = -(-step // chunk[0]) * chunk[0]  # or chunks are unpacked over and over
        last = item.shape[0]
        return None, (self._rows(item, kind, first, min(step, last - first)) for first in range(0, last, step))

    def _rows(self, item: Any, kind: Element, first: int, count: int | None) -> bytes:
        """The bytes of `count` rows, or of a scalar."""
        shape = item.shape if count is None else (count, *item.shape[1:])
        out = np.empty(shape, f"V{kind.memory.get_size()}")
        if out.size:
            space = item.get_space()
            if count is not None:
                space.select_hyperslab((first, *(0 for _ in shape[1:])), shape)
            item.read(h5py.h5s.create_simple(shape) if shape else h5py.h5s.ALL, space, out, kind.memory)
        return out.tobytes()

    def checked(self) -> Answer:
        """The datasets whose chunks have checksums, which are compared when they are read."""
        assert self._found is not None
        return [
            path for path in self._found.elements if h5py.h5z.FILTER_FLETCHER32 in _filters(self._dataset(path))
        ], None

    def _dataset(self, path: str) -> Any:
        assert self._file is not None
        return h5py.h5d.open(self._file.id, path.encode("utf-8", "surrogateescape"))


def main() -> None:
    """Serve one file."""
    file = File(int(sys.argv[3]))
    serve(bounds.most(MEMORY), {"open": file.open, "read": file.read, "checked": file.checked})
