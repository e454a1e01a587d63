"""Sorted tables as LevelDB has them, written in a plain way, for tests that need one that TensorFlow would not write."""

from __future__ import annotations

import struct

from milepost.formats.crc32c import crc32c

MAGIC = 0xDB4775248B80FB57


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    return varint(number << 3 | 2) + varint(len(value)) + value


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF


def block(entries: list[tuple[int, bytes, bytes]]) -> bytes:
    """A block of (bytes shared with the key before, rest of the key, value)."""
    raw = b"".join(
        varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value for shared, rest, value in entries
    )
    return raw + struct.pack("<II", 0, 1)


def table(blocks: list[bytes], kind: int = 0) -> bytes:
    """A table with these blocks."""
    out, index = b"", []
    for count, data in enumerate(blocks):
        index.append((0, b"%08d" % count, varint(len(out)) + varint(len(data))))
        out += sealed(data, kind)
    at, data = len(out), block(index)
    out += sealed(data, 0)
    handles = varint(0) + varint(0) + varint(at) + varint(len(data))
    return out + handles.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def sealed(data: bytes, kind: int) -> bytes:
    return data + bytes([kind]) + masked(data + bytes([kind])).to_bytes(4, "little")


HEADER = field(1, 1) + field(3, field(1, 1))


def entry(kind: int, shape: tuple[int, ...], offset: int, size: int, crc: int = 0, extra: bytes = b"") -> bytes:
    """A BundleEntryProto."""
    dims = b"".join(field(2, field(1, length)) for length in shape)
    crc_field = varint(6 << 3 | 5) + crc.to_bytes(4, "little")
    return field(1, kind) + field(2, dims) + field(4, offset) + field(5, size) + crc_field + extra


def bundle(entries: dict[bytes, bytes], header: bytes = HEADER) -> bytes:
    """A table of contents with one block."""
    return table([block([(0, b"", header), *((0, key, value) for key, value in sorted(entries.items()))])])
