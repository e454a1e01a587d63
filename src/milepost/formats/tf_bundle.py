"""TensorFlow checkpoints (tensor bundles, format V2): a table of contents, ``NAME.index``, and data, ``NAME.data-00000-of-00001``.

The format is that of tensorflow/core/util/tensor_bundle (tensor_bundle.h, tensor_bundle.proto). Each tensor has a CRC-32C, which is
checked whenever it is read. Large variables may be stored in slices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import DamagedError, FormatError
from milepost.formats import bounds, sstable
from milepost.formats.crc32c import crc32c, unmasked
from milepost.formats.place import File, Folder, read_array
from milepost.formats.protobuf import LARGEST, Fields, number, parse, varint
from milepost.formats.source import FormatSource, as_array, spec, unused
from milepost.formats.tf_entries import Entry, read_entries
from milepost.formats.tf_graph import Names, names_in, path_of
from milepost.formats.tf_state import read_state
from milepost.formats.tf_types import STRING, TYPES

NAME = "a TensorFlow checkpoint"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
MOST_ENTRIES = 220_000
MOST_NAMES = 64 * 1024 * 1024
"""Bytes of all names: they are compressed in the file, without end if one has a mind to."""
LARGEST_TEXT = 16 * 1024 * 1024
"""Bytes of all strings that are plain values; more than that is shown as bytes."""
MOST_STRINGS = 1_000_000

_DATA = re.compile(r"(.+)\.data-[0-9]{5}-of-[0-9]{5}")
_STEPS = re.compile(r"step|global_step|(.*/)?(_?iterations|iter)")
"""Paths of what counts steps: what the script counts itself before what an optimizer does."""


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, File) and (sstable.is_table(place) or _index_of(place) is not None)


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    index = _index_of(place) or place
    time = read_state(index.folder).times.get(index.name.removesuffix(".index"))
    return open_bundle(index, {} if time is None else {"time": time})


def open_bundle(
    index: File, told: Mapping[str, Any] | None = None, plain: Mapping[str, Any] | None = None, where: str | None = None
) -> Bundle:
    """Read the table of contents ``NAME.index``.

    Args:
        index: that file.
        told: what is known beside it, for the metadata.
        plain: plain values that stand beside the tensors.
        where: the place for people, if it is not the file.

    Raises:
        FormatError: it cannot be understood, or is of format V1.
        DamagedError: it differs from its checksums.
    """
    table: dict[bytes, bytes] = {}
    named = 0
    for key, value in sstable.entries(index):
        named += len(key)
        if len(table) >= bounds.most(MOST_ENTRIES) or named > bounds.most(MOST_NAMES):
            raise bounds.too_much(
                "more tensors than any checkpoint has, or longer names", index.where, bound=MOST_ENTRIES
            )
        if not table and (key or _is_v1(value, index.where)):
            raise FormatError(
                "this is a TensorFlow checkpoint of the old format V1" if not key else "this table is no checkpoint",
                where=index.where,
                expected="a checkpoint of format V2 (.index and .data files), as TensorFlow writes since 1.0",
                hint="load it with TensorFlow and save it again" if not key else None,
            )
        table[key] = value
    if b"" not in table:
        raise FormatError("the table is empty", where=index.where)
    header = parse(table.pop(b""), index.where)
    entries = read_entries(table, index.where)
    return Bundle(index, header, entries, told or {}, plain or {}, where or index.where)


class Bundle(FormatSource):
    """One checkpoint, its table of contents read."""

    def __init__(
        self,
        index: File,
        header: Fields,
        entries: dict[bytes, Entry],
        told: Mapping[str, Any],
        beside: Mapping[str, Any],
        where: str,
    ) -> None:
        self._index = index
        self._shards = number(header, 1)
        self._big_endian = number(header, 2) == 1
        self._where = where  # for errors until all is known
        graph = entries.pop(GRAPH.encode(), None)
        self.stored_as: dict[str, str] = {}
        """By path: the key in the table."""
        names = Names({}, {})
        if graph is not None and graph.kind == STRING and not graph.shape:
            names = names_in(self._strings(graph)[0], index.where)
        self._entries: dict[str, Entry] = {}
        specs: dict[str, TensorSpec] = {}
        plain: dict[str, Any] = dict(beside)
        full = {}
        left = LARGEST_TEXT
        for raw, entry in entries.items():
            key = raw.decode("utf-8", "surrogateescape")
            path = unused(names.paths.get(key) or path_of(key), self._entries, beside)
            self._entries[path] = entry
            self.stored_as[path] = key
            if key in names.full:
                full[path] = names.full[key]
            if entry.kind == STRING and entry.size <= left and math.prod(entry.shape) <= MOST_STRINGS:
                left -= entry.size
                plain[path] = _nested([_text(one) for one in self._strings(entry)], entry.shape)
            else:
                specs[path] = _spec(entry, index.where, path)
        self.notes = full
        metadata = {"format": NAME, "written_by": {"framework": "tensorflow"}, **told}
        super().__init__(where, specs, plain, metadata)
        step = self._step()
        if step is not None:
            metadata["step"] = step

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        return self._tensor(self._entries[path], spec)

    def _tensor(self, entry: Entry, spec: TensorSpec) -> npt.NDArray[Any]:
        if entry.slices:
            whole = np.empty(spec.shape, spec.dtype.numpy)
            filled = np.zeros(spec.shape, bool)
            for box, part in entry.slices:
                if filled[box].any():
                    raise FormatError("slices of a tensor overlap", where=self.where)
                filled[box] = True
                whole[box] = self._tensor(part, _spec(part, self.where, "a slice"))
            return whole
        found = read_array(self._data(entry.shard), entry.offset, entry.size)
        if entry.kind not in TYPES:
            return found  # the CRC of these is of what they were in memory
        if crc32c(found.data) != unmasked(entry.crc):
            raise DamagedError("a tensor differs from its checksum", where=self.where)
        return as_array(found, spec, big_endian=self._big_endian)

    def _strings(self, entry: Entry) -> list[bytes]:
        """The strings of a tensor: their lengths, a checksum of these, then one behind the other."""
        number_of = spec(dtypes.dtype("uint8"), entry.shape, self.where, "of strings").nbytes
        if number_of > entry.size or entry.size > LARGEST:
            raise FormatError("a tensor of strings has another size than its shape says", where=self.where)
        raw = self._data(entry.shard).read(entry.offset, entry.size)
        sizes, at = [], 0
        for _ in range(number_of):
            size, at = varint(raw, at)
            sizes.append(size)
        check = b"".join(size.to_bytes(4 if size < 1 << 32 else 8, "little") for size in sizes)
        if crc32c(check) != unmasked(int.from_bytes(raw[at : at + 4], "little")) or at + 4 + sum(sizes) != len(raw):
            raise DamagedError("the lengths of strings differ from their checksum", where=self.where)
        if crc32c(check + raw[at:]) != unmasked(entry.crc):
            raise DamagedError("a tensor of strings differs from its checksum", where=self.where)
        found = []
        at += 4
        for size in sizes:
            found.append(raw[at : at + size])
            at += size
        return found

    def _data(self, shard: int) -> File:
        if shard >= self._shards:
            raise FormatError(
                "a tensor is in a data file that there is not", where=self.where, found=f"{shard} of {self._shards}"
            )
        stem = self._index.name.removesuffix(".index")
        return self._index.folder.file(f"{stem}.data-{shard:05d}-of-{self._shards:05d}", self.where)

    def _step(self) -> int | None:
        """The step, if a scalar has a name for it."""
        for path in sorted(filter(_STEPS.fullmatch, self._specs), key=lambda path: path.count("/")):
            spec, entry = self._specs[path], self._entries[path]
            if not spec.shape and spec.dtype.name in ("int32", "int64"):
                return int(self._tensor(entry, spec))
        return None


def _index_of(place: File) -> File | None:
    """The table of contents that data file `place` belongs to."""
    found = _DATA.fullmatch(place.name)
    if found is None or not place.folder.has(found[1] + ".index"):
        return None
    index = place.folder.file(found[1] + ".index")
    return index if sstable.is_table(index) else None


def _is_v1(header: bytes, where: str) -> bool:
    """Whether what stands under the empty key is the list of tensors of a V1 checkpoint, rather than the header of a V2 one."""
    return isinstance(parse(header, where).get(1, [0])[0], bytes)


def _spec(entry: Entry, where: str, path: str) -> TensorSpec:
    name = TYPES.get(entry.kind)
    if entry.kind == STRING and math.prod(entry.shape) > entry.size:
        raise FormatError(f"tensor {path!r} has more strings than bytes", where=where, found=repr(entry.shape)[:200])
    if name is None:
        return spec(dtypes.dtype("uint8"), (entry.size,), where, path)
    found = spec(dtypes.dtype(name), entry.shape, where, path)
    stored = sum(part.size for _, part in entry.slices) if entry.slices else entry.size
    if stored != found.nbytes:
        raise FormatError(
            f"tensor {path!r} has another size than its shape says",
            where=where,
            expected=f"{found.nbytes} bytes",
            found=f"{stored} bytes",
        )
    return found


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _nested(values: list[Any], shape: tuple[int, ...]) -> Any:
    """`values` in lists as `shape` has it."""
    if not shape:
        return values[0]
    for size in shape[:0:-1]:
        values = [values[at : at + size] for at in range(0, len(values), size)] if size else []
    return values
