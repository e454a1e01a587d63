"""The entries in the table of contents of a TensorFlow checkpoint: where each tensor is, in one piece or in slices
(tensorflow/core/protobuf/tensor_bundle.proto)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from milepost.errors import FormatError
from milepost.formats.protobuf import Fields, data, datas, number, parse, signed


class Entry(NamedTuple):
    """Where a tensor is: in which data file, the bytes, and their CRC. With `slices` it is in parts, each with the place it has
    in the whole and an entry of its own."""

    kind: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[tuple[tuple[slice, ...], Entry], ...] = ()


def read_entries(table: Mapping[bytes, bytes], where: str) -> dict[bytes, Entry]:
    """The entries of the tensors in `table`, those of slices within those of their tensors.

    Raises:
        FormatError: one cannot be understood, or a slice is missing or does not fit.
    """
    shapes: dict[bytes, tuple[int, ...]] = {}  # most tensors have the shape of another one
    found = {}
    for key, value in table.items():
        if key.startswith(b"\0"):
            continue  # a slice
        fields = parse(value, where)
        coded = data(fields, 2)
        shape = shapes.get(coded)
        if shape is None:
            sizes = [signed(number(parse(dim, where), 1)) for dim in datas(parse(coded, where), 2)]
            shape = shapes[coded] = tuple(sizes)
        entry = _entry(fields, shape)
        if 7 in fields:
            boxes = [[parse(extent, where) for extent in datas(parse(box, where), 1)] for box in datas(fields, 7)]
            entry = entry._replace(slices=tuple(_slice(key, box, entry, table, where) for box in boxes))
        found[key] = entry
    return found


def _entry(fields: Fields, shape: tuple[int, ...]) -> Entry:
    return Entry(number(fields, 1), shape, number(fields, 3), number(fields, 4), number(fields, 5), number(fields, 6))


def _slice(
    key: bytes, box: list[Fields], whole: Entry, table: Mapping[bytes, bytes], where: str
) -> tuple[tuple[slice, ...], Entry]:
    """One slice of a tensor, and its own entry, which stands under a key made of the tensor's and the slice."""
    ranges = [(signed(number(extent, 1)), signed(number(extent, 2)) if 2 in extent else -1) for extent in box]
    part = table.get(slice_key(key, ranges))
    if part is None or len(ranges) != len(whole.shape):
        raise FormatError("a slice of a tensor is missing", where=where, found=ascii(key)[2:100])
    places = tuple(
        slice(0, size) if length < 0 else slice(start, start + length)
        for (start, length), size in zip(ranges, whole.shape, strict=True)
    )
    entry = _entry(parse(part, where), tuple(place.stop - place.start for place in places))
    if entry.kind != whole.kind or any(
        not 0 <= place.start <= place.stop <= size for place, size in zip(places, whole.shape, strict=True)
    ):
        raise FormatError("a slice does not fit its tensor", where=where, found=ascii(key)[2:100])
    return places, entry


def slice_key(key: bytes, ranges: list[tuple[int, int]]) -> bytes:
    """The key of a slice (tensorflow/core/util/saved_tensor_slice_util.cc, in the codes of lib/strings/ordered_code.cc)."""
    name = key.replace(b"\xff", b"\xff\0").replace(b"\0", b"\0\xff") if b"\0" in key or b"\xff" in key else key
    count = len(ranges).to_bytes((len(ranges).bit_length() + 7) // 8, "big")
    coded = b"\0" + name + b"\0\1" + bytes([len(count)]) + count
    return coded + b"".join(_ordered(value) for place in ranges for value in place)


def _ordered(value: int) -> bytes:
    """A signed integer so that the bytes sort as the numbers do: as many leading bits are set as bytes follow."""
    size = (value.bit_length() if value >= 0 else (~value).bit_length()) // 7 + 1
    raw = (value & (1 << 80) - 1).to_bytes(10, "big")[-size:]
    header = ((0xFF << (8 - size)) & 0xFF, 0) if size < 9 else (0xFF, 0x80 if size == 9 else 0xC0)
    return bytes([raw[0] ^ header[0]]) + (bytes([raw[1] ^ header[1]]) if size > 1 else b"") + raw[2:]
