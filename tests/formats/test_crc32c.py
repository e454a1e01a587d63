from __future__ import annotations

import numpy as np
import pytest

from milepost.formats.crc32c import crc32c, unmasked


def bit_by_bit(data: bytes) -> int:
    """As RFC 3720 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_known_values() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


# Around every length at which another way is taken: tables, bytes folded, words folded, several blocks of words.
@pytest.mark.parametrize("size", [1, 3, 4, 5, 255, 256, 257, 5684, 5685, 5686, 90959, 90960, 90961, 90967, 640_001])
def test_every_length(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    assert crc32c(data) == bit_by_bit(data)
    assert crc32c(memoryview(data)) == crc32c(bytearray(data))


def test_every_bit_counts() -> None:
    data = bytearray(200_000)
    clean = crc32c(data)
    for place in (0, 1, 5684, 100_000, 199_992, 199_999):
        data[place] ^= 1
        assert crc32c(data) != clean
        data[place] ^= 1


def test_the_mask_is_that_of_leveldb() -> None:
    crc = crc32c(b"foo")
    assert unmasked(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF) == crc
