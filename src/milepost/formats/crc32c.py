"""CRC-32C (Castagnoli) at memory speed with numpy alone, so that TensorFlow's checksums are checked on every read without
another package.

A table lookup a byte is far too slow in Python, and gathers in numpy are not fast. But what a CRC keeps is the message as a
polynomial modulo P, and there is a multiple of P with four terms only::

    x^5685 + x^1362 + x^426 + 1        (found by search; below x^5243 there is none)

Over GF(2) squaring goes term by term, so the same holds with every exponent times 64 (whole 8-byte words) or times 8 (bytes): a
word can be taken away at the front if it is XORed in 4323, 5259 and 5685 words behind. Those are three vector operations on
slices of 34 KB. What is left, 5685 bytes at most, goes through tables.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

_DEGREE = 5685
_BEHIND = (_DEGREE - 1362, _DEGREE - 426, _DEGREE)
_STRIDE = _BEHIND[0]
_BLOCK = 16 * _STRIDE
"""Words folded at a time: they stay in a core's cache."""
_ROW = 256
"""Bytes that one gather takes in."""


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """The CRC-32C of `data`.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    message = np.frombuffer(data, np.uint8)
    if len(message) < 4:
        return _one_by_one(bytes(data))
    if len(message) > 16 * _DEGREE:
        whole = len(message) // 8 * 8
        words = _reduced(message[:whole].view(np.uint64), 0xFFFFFFFF)
        message = _reduced(np.concatenate([words.view(np.uint8), message[whole:]]), 0)
    else:
        message = message.copy()
        message[:4] ^= 0xFF  # a CRC starts from all ones
        message = _reduced(message, 0)
    return _by_rows(message) ^ 0xFFFFFFFF


def unmasked(stored: int) -> int:
    """The CRC that LevelDB's tables and TensorFlow store as `stored`: they rotate it and add a constant."""
    turned = (stored - 0xA282EAD8) & 0xFFFFFFFF
    return (turned >> 17 | turned << 15) & 0xFFFFFFFF


def _reduced(message: npt.NDArray[Any], start: int) -> npt.NDArray[Any]:
    """At most `_DEGREE` elements that are equal to `message` modulo P, `start` being XORed into its first one."""
    room = np.empty(min(len(message), _DEGREE + _BLOCK), message.dtype)
    held = taken = len(room)
    room[:] = message[:taken]
    room[0] ^= np.asarray(start, message.dtype)
    while True:
        done = 0
        while held - done > _DEGREE:
            step = min(_STRIDE, held - done - _DEGREE)
            head = room[done : done + step]
            for behind in _BEHIND:
                room[done + behind : done + behind + step] ^= head
            done += step
        if taken == len(message):
            return room[done:held]
        more = min(len(message) - taken, _BLOCK)
        room[:_DEGREE] = room[done:held].copy()
        room[_DEGREE : _DEGREE + more] = message[taken : taken + more]
        taken += more
        held = _DEGREE + more


def _by_rows(message: npt.NDArray[np.uint8]) -> int:
    """The CRC of `message` from zero, uninverted. Zeros in front of a message do not change it."""
    rows = np.zeros((-(-len(message) // _ROW), _ROW), np.uint8)
    rows.reshape(-1)[-len(message) :] = message
    tables = _tables()
    parts = np.bitwise_xor.reduce(tables[np.arange(_ROW - 1, -1, -1), rows], axis=1)
    crc = 0
    for part in map(int, parts):  # a row of zeros further, and the next row on top
        for place in range(4):
            part ^= int(tables[_ROW - 1 - place, crc >> 8 * place & 0xFF])
        crc = part
    return crc


def _one_by_one(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = int(_tables()[0, (crc ^ byte) & 0xFF]) ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _tables() -> npt.NDArray[np.uint32]:
    """``[n, b]``: the CRC of byte b with n zero bytes behind it."""
    tables = np.empty((_ROW, 256), np.uint32)
    values: npt.NDArray[np.uint32] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = values >> np.uint32(1) ^ (values & np.uint32(1)) * np.uint32(0x82F63B78)
    tables[0] = values
    for zeros in range(1, _ROW):
        before = tables[zeros - 1]
        tables[zeros] = before >> 8 ^ values[before & 0xFF]
    return tables
