"""Elements of less than a byte, packed one behind the other from the lowest bit up, as numpy can hold them: one a byte."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` packed elements.

    Example:
        >>> packed_size(5, 4)
        3
    """
    return -(-count * bits // 8)


def unpack(data: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """The first `count` elements of `bits` bits (2, 4 or 6) in `data`, each in the low bits of a byte.

    Example:
        >>> unpack(np.array([0x21, 0x43], np.uint8), 4, 3)
        array([1, 2, 3], dtype=uint8)
    """
    together = math.lcm(bits, 8) // 8
    groups = -(-len(data) // together)
    if together == 1:
        words = data
    else:
        padded = np.zeros(groups * together, np.uint8)
        padded[: len(data)] = data
        wide = padded.reshape(groups, together).astype(np.uint32)
        words = np.bitwise_or.reduce(wide << np.arange(0, 8 * together, 8, dtype=np.uint32), axis=1)
    out = np.empty((groups, 8 * together // bits), np.uint8)
    for place in range(out.shape[1]):
        out[:, place] = words >> place * bits & (1 << bits) - 1
    return out.reshape(-1)[:count]
