"""The wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding), read without their definitions.

A message is what is in its bytes: numbered fields, each with an integer or with bytes that may be text, an array or another
message. `parse` reads a small one at once. `walk` goes through one in a file and skips what is large, so that a model of
gigabytes is listed by reading some kilobytes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from milepost.core.layout import Span
from milepost.errors import FormatError
from milepost.formats import bounds
from milepost.formats.place import Readable

LARGEST = 64 * 1024 * 1024
"""Bytes of a message that is read at once."""
MOST = 250_000
"""Times that a field is in a message that is read at once."""
DEEPEST = 64
"""Levels of messages within messages of the same kind."""
_STEP = 4096
"""Bytes that `walk` reads at a time."""

Fields = dict[int, list[int | bytes]]
"""The values of each field by its number, in the order they stand in."""


def parse(data: bytes, where: str) -> Fields:
    """The fields of a message.

    Raises:
        FormatError: it is cut short, or not a message.
        UnsafeContentError: there is more in it than in any.
    """
    if len(data) > LARGEST:
        raise FormatError("a message of impossible size", where=where, found=f"{len(data)} bytes")
    found: Fields = {}
    at, stop = 0, len(data)
    try:
        while at < stop:
            tag = data[at]
            at += 1
            if tag > 127:
                tag, at = varint(data, at - 1)
            kind = tag & 7
            value: int | bytes
            if kind == 0:
                value = data[at]
                at += 1
                if value > 127:
                    value, at = varint(data, at - 1)
            elif kind == 2:
                size = data[at]
                at += 1
                if size > 127:
                    size, at = varint(data, at - 1)
                value = data[at : at + size]
                at += size
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                value = int.from_bytes(data[at : at + size], "little")
                at += size
            else:
                raise _not_a_message(where)
            if at > stop or tag < 8:
                raise _not_a_message(where)
            values = found.setdefault(tag >> 3, [])
            values.append(value)
            if len(values) > MOST and len(values) > bounds.most(MOST):
                raise bounds.too_much("a message has a field more often than any needs it", where, bound=MOST)
    except IndexError:
        raise _not_a_message(where) from None
    return found


class Field(NamedTuple):
    """One field of a message in a file: its number, its integer (0 if it has bytes), and where its bytes are."""

    number: int
    value: int
    span: Span | None


def walk(source: Readable, span: Span) -> Iterator[Field]:
    """The fields of the message that is `span` of `source`, one after the other, without reading their bytes.

    Raises:
        FormatError: it is cut short, or not a message.
    """
    at, stop = span
    stop += at
    begin, near = at, b""
    while at < stop:
        if at + 20 > begin + len(near) and begin + len(near) < stop:
            begin, near = at, source.read(at, min(_STEP, stop - at))
        try:
            # Most integers are one byte, which this is quick about: models have a million of them.
            inside = at - begin + 1
            tag, value, field = near[inside - 1], 0, None
            if tag > 127:
                tag, inside = varint(near, inside - 1)
            kind = tag & 7
            if kind in (0, 2):
                value = near[inside]
                inside += 1
                if value > 127:
                    value, inside = varint(near, inside - 1)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                value = int.from_bytes(near[inside : inside + size], "little")
                inside += size
            else:
                raise _not_a_message(source.where)
            at = begin + inside
            if kind == 2:
                field = Span(at, value)
                at, value = at + value, 0
        except IndexError:
            raise _not_a_message(source.where) from None
        if at > stop or tag < 8:
            raise _not_a_message(source.where)
        yield Field(tag >> 3, value, field)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The integer of variable length at `at` of `data`, and where it ends.

    Raises:
        IndexError: `data` ends within it.
        FormatError: longer than any.
    """
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise FormatError("an integer of impossible length")


def number(fields: Fields, field: int, default: int = 0) -> int:
    """The integer in `field`: the last one given, as everywhere with protocol buffers.

    Raises:
        FormatError: bytes are there instead.
    """
    value = fields.get(field, (default,))[-1]
    if not isinstance(value, int):
        raise FormatError("a message has bytes where a number belongs", found=f"field {field}")
    return value


def signed(value: int) -> int:
    """`value` as the signed integer of 64 bits it stands for."""
    return value - (1 << 64) if value >> 63 else value


def numbers(fields: Fields, field: int) -> list[int]:
    """All integers in `field`, packed or one by one, unsigned.

    Raises:
        FormatError: a packed array is cut short.
    """
    found: list[int] = []
    for value in fields.get(field, ()):
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        try:
            while at < len(value):
                one, at = varint(value, at)
                found.append(one)
        except IndexError:
            raise FormatError("a message is cut short", found=f"field {field}") from None
    return found


def data(fields: Fields, field: int) -> bytes:
    """The bytes in `field`, the last that were given; none if there are none.

    Raises:
        FormatError: a number is there instead.
    """
    value = fields.get(field, (b"",))[-1]
    if not isinstance(value, bytes):
        raise FormatError("a message has a number where bytes belong", found=f"field {field}")
    return value


def datas(fields: Fields, field: int) -> list[bytes]:
    """All bytes in `field`, as for a message that is repeated; raises as `data` does."""
    found = []
    for value in fields.get(field, ()):
        if not isinstance(value, bytes):
            raise FormatError("a message has a number where bytes belong", found=f"field {field}")
        found.append(value)
    return found


def text(fields: Fields, field: int) -> str:
    """The text in `field`; raises as `data` does."""
    return data(fields, field).decode("utf-8", "replace")


def _not_a_message(where: str) -> FormatError:
    return FormatError("a part of the file is no protocol buffer, or is cut short", where=where)
