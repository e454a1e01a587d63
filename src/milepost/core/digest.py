"""Digests of bytes, and whether floats are finite: both read each block while it is in the cache.

The digest is XXH3-128 (Y. Collet, https://github.com/Cyan4973/xxHash): not cryptographic, it guards against accidents. It is
written as ``xxh3-128:`` and 32 hexadecimal digits (the canonical, big-endian form).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from milepost.core.dtypes import DType

PREFIX = "xxh3-128:"
CHUNK = 1 << 20
"""Bytes read at a time: small enough that the second look at a chunk finds it in the L2 cache."""


def digest(data: bytes | memoryview) -> str:
    """The digest of `data`."""
    return PREFIX + xxhash.xxh3_128_hexdigest(data)


def file_digest(header: bytes, digests: Sequence[str]) -> str:
    """The digest of a file from its header and the digests of its entries in file order."""
    whole = xxhash.xxh3_128(header)
    for digest in digests:
        whole.update(bytes.fromhex(digest.removeprefix(PREFIX)))
    return PREFIX + whole.hexdigest()


# A float is infinite or NaN when its exponent bits are all ones. Seen as a signed integer such a positive number exceeds every
# finite one, and seen as an unsigned integer such a negative one does: two integer maxima, at the speed of memory, are
# an exact test. Per type: integer width, then the largest finite pattern seen as signed and as unsigned; None: no such pattern.
_LARGEST_FINITE: dict[str, tuple[int, int, int]] = {
    "float64": (8, 0x7FEF_FFFF_FFFF_FFFF, 0xFFEF_FFFF_FFFF_FFFF),
    "float32": (4, 0x7F7F_FFFF, 0xFF7F_FFFF),
    "float16": (2, 0x7BFF, 0xFBFF),
    "bfloat16": (2, 0x7F7F, 0xFF7F),
    "float8_e5m2": (1, 0x7B, 0xFB),
    "float8_e4m3": (1, 0x77, 0xF7),
    "float8_e3m4": (1, 0x6F, 0xEF),
    "float8_e4m3fn": (1, 0x7E, 0xFE),  # NaN is all ones, there is no infinity
    "float8_e8m0fnu": (1, 0x7F, 0xFE),  # unsigned; NaN is 0xFF
    "complex128": (8, 0x7FEF_FFFF_FFFF_FFFF, 0xFFEF_FFFF_FFFF_FFFF),
    "complex64": (4, 0x7F7F_FFFF, 0xFF7F_FFFF),
    "complex32": (2, 0x7BFF, 0xFBFF),
}
_ONLY_NAN_IS_0X80 = frozenset({"float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz"})


def all_finite(kind: DType, data: memoryview) -> bool:
    """Whether the elements of type `kind` in `data` (whole elements, little-endian) are neither infinite nor NaN."""
    if kind.name in _ONLY_NAN_IS_0X80:
        return not np.any(np.frombuffer(data, np.uint8) == 0x80)
    limits = _LARGEST_FINITE.get(kind.name)
    if limits is None or len(data) == 0:
        return True
    width, signed, unsigned = limits
    return bool(
        np.frombuffer(data, f"<i{width}").max() <= signed and np.frombuffer(data, f"<u{width}").max() <= unsigned
    )


class Checker:
    """Digest and finiteness of one shard, fed in pieces of whole elements.

    Example:
        >>> checker = Checker(dtype("float32"))
        >>> checker.update(memoryview(np.ones(4, np.float32)).cast("B"))
        >>> checker.finite, checker.digest()
        (True, 'xxh3-128:…')
    """

    def __init__(self, kind: DType) -> None:
        self._kind = kind
        self._hash = xxhash.xxh3_128()
        self.finite: bool | None = True if kind.floating else None

    def update(self, data: memoryview) -> None:
        """Take the next bytes (whole elements; `CHUNK` at a time is fastest)."""
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            self._hash.update(piece)
            if self.finite and not all_finite(self._kind, piece):
                self.finite = False

    def digest(self) -> str:
        """The digest of all bytes taken so far."""
        return PREFIX + self._hash.hexdigest()
