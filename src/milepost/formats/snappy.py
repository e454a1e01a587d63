"""Snappy (https://github.com/google/snappy, format_description.txt), which tables of TensorFlow may be compressed with."""

from __future__ import annotations

from milepost.errors import FormatError
from milepost.formats.protobuf import varint


def decompress(data: bytes, most: int) -> bytes:
    """What `data` was before it was compressed.

    Args:
        data: a raw stream: the length, then literals and copies.
        most: bytes that it may come to.

    Raises:
        FormatError: it is damaged, or comes to more than `most`.
    """
    try:
        size, at = varint(data, 0)
        if size > most:
            raise FormatError("a compressed block is impossibly large", found=f"{size} bytes")
        out = bytearray()
        while at < len(data):
            tag = data[at]
            at += 1
            if tag & 3 == 0:
                length = tag >> 2
                if length >= 60:
                    wide = length - 59
                    length = int.from_bytes(data[at : at + wide], "little")
                    at += wide
                out += data[at : at + length + 1]
                at += length + 1
            else:
                if tag & 3 == 1:
                    length, offset = (tag >> 2 & 7) + 4, tag >> 5 << 8 | data[at]
                    at += 1
                else:
                    wide = 2 if tag & 3 == 2 else 4
                    length, offset = (tag >> 2) + 1, int.from_bytes(data[at : at + wide], "little")
                    at += wide
                if not 0 < offset <= len(out):
                    raise FormatError("a compressed block is damaged")
                piece = bytes(out[-offset:][:length])
                out += (piece * (length // len(piece) + 1))[:length]
            if len(out) > size:
                break
    except IndexError:
        raise FormatError("a compressed block is cut short") from None
    if len(out) != size or at != len(data):
        raise FormatError("a compressed block is damaged", expected=f"{size} bytes", found=f"{len(out)} bytes")
    return bytes(out)
