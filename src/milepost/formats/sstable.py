"""Sorted tables as LevelDB has them (https://github.com/google/leveldb/blob/main/doc/table_format.md): keys and values, in blocks.

The file ends with a footer that says where the index is; the index says where the blocks are; a block holds keys in order, of
which each says only how it differs from the one before it. Every block has a CRC-32C.
"""

from __future__ import annotations

from collections.abc import Iterator

from milepost.errors import DamagedError, FormatError
from milepost.formats.crc32c import crc32c, unmasked
from milepost.formats.place import Readable
from milepost.formats.protobuf import varint
from milepost.formats.snappy import decompress

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER = 48
LARGEST_BLOCK = 64 * 1024 * 1024
"""Bytes; TensorFlow begins a new block after 256 KiB, and a single value may be larger."""


def is_table(source: Readable) -> bool:
    """Whether `source` ends as a table does."""
    return source.size >= FOOTER and source.read(source.size - 8, 8) == MAGIC


def entries(source: Readable) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of the table `source`, in its order.

    Raises:
        FormatError: it is no table, or cannot be understood.
        DamagedError: a block differs from its checksum.
    """
    footer = source.read(source.size - FOOTER, FOOTER)
    try:
        _, at = _handle(footer, 0)
        index, _ = _handle(footer, at)
    except IndexError:
        raise FormatError("the footer of the table is damaged", where=source.where) from None
    left = source.size  # so that an index cannot name one block over and over
    for _, where in _in_block(_block(source, *index), source.where):
        try:
            (offset, size), _ = _handle(where, 0)
        except IndexError:
            raise FormatError("the index of the table is damaged", where=source.where) from None
        left -= size + 5
        if left < 0:
            raise FormatError("the index of the table names more blocks than there is room for", where=source.where)
        yield from _in_block(_block(source, offset, size), source.where)


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(source: Readable, offset: int, size: int) -> bytes:
    if size > LARGEST_BLOCK:
        raise FormatError("a block of the table is impossibly large", where=source.where, found=f"{size} bytes")
    data = source.read(offset, size + 5)
    if crc32c(data[: size + 1]) != unmasked(int.from_bytes(data[size + 1 :], "little")):
        raise DamagedError("a block of the table differs from its checksum", where=source.where, found=f"at {offset}")
    if data[size] == 0:
        return data[:size]
    if data[size] == 1:
        return decompress(data[:size], LARGEST_BLOCK)
    raise FormatError("a block of the table is compressed in an unknown way", where=source.where, found=data[size])


def _in_block(block: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    restarts = int.from_bytes(block[-4:], "little")
    stop = len(block) - 4 - 4 * restarts
    if len(block) < 4 or stop < 0:
        raise FormatError("a block of the table is damaged", where=where)
    at, key = 0, b""
    try:
        while at < stop:
            shared, unshared, size = block[at], block[at + 1], block[at + 2]
            if shared | unshared | size < 128:
                at += 3
            else:
                shared, at = varint(block, at)
                unshared, at = varint(block, at)
                size, at = varint(block, at)
            end = at + unshared + size
            if shared > len(key) or end > stop:
                raise FormatError("a block of the table is damaged", where=where)
            key = key[:shared] + block[at : at + unshared]
            yield key, block[at + unshared : end]
            at = end
    except IndexError:
        raise FormatError("a block of the table is damaged", where=where) from None
