"""The element types of ggml, in which GGUF files hold tensors: blocks of quantized numbers with a scale.

After ggml's block structures (ggml-common.h) and the reference dequantization (ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[np.uint8]
"""One block a row."""


class Kind(NamedTuple):
    """One type: elements and bytes of a block; and how it is read, by the name of a type of ours or by a function, if it is."""

    name: str
    per_block: int
    size: int
    plain: str | None = None
    values: Callable[[Blocks, str], npt.NDArray[Any]] | None = None


def _q4_0(blocks: Blocks, order: str) -> npt.NDArray[Any]:
    """A scale, then 32 numbers of 4 bits around 8: the first 16 in the low halves."""
    low, high = blocks[:, 2:] & 15, blocks[:, 2:] >> 4
    numbers: npt.NDArray[Any] = np.concatenate([low, high], axis=1).astype(np.int8) - 8
    values: npt.NDArray[Any] = numbers * _half(blocks, 0, order)
    return values


def _q8_0(blocks: Blocks, order: str) -> npt.NDArray[Any]:
    """A scale, then 32 numbers of 8 bits."""
    numbers: npt.NDArray[Any] = blocks[:, 2:].view(np.int8)
    values: npt.NDArray[Any] = numbers * _half(blocks, 0, order)
    return values


def _q4_k(blocks: Blocks, order: str) -> npt.NDArray[Any]:
    """Two scales for the scales, 8 scales and 8 minima of 6 bits, then 8 runs of 32 numbers of 4 bits, two runs in the halves of 32
    bytes."""
    packed = blocks[:, 4:16]
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    halves = blocks[:, 16:].reshape(-1, 4, 1, 32)
    numbers = np.concatenate([halves & 15, halves >> 4], axis=2).reshape(-1, 8, 32)
    scale = (_half(blocks, 0, order) * scales)[:, :, None]
    least = (_half(blocks, 2, order) * minima)[:, :, None]
    values: npt.NDArray[Any] = scale * numbers - least
    return values.reshape(len(blocks), 256)


def _half(blocks: Blocks, at: int, order: str) -> npt.NDArray[Any]:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(f"{order}f2").astype(np.float32)


KINDS = {
    0: Kind("F32", 1, 4, "float32"), 1: Kind("F16", 1, 2, "float16"), 30: Kind("BF16", 1, 2, "bfloat16"),
    28: Kind("F64", 1, 8, "float64"), 24: Kind("I8", 1, 1, "int8"), 25: Kind("I16", 1, 2, "int16"),
    26: Kind("I32", 1, 4, "int32"), 27: Kind("I64", 1, 8, "int64"),
    2: Kind("Q4_0", 32, 18, values=_q4_0), 8: Kind("Q8_0", 32, 34, values=_q8_0), 12: Kind("Q4_K", 256, 144, values=_q4_k),
    3: Kind("Q4_1", 32, 20), 6: Kind("Q5_0", 32, 22), 7: Kind("Q5_1", 32, 24), 9: Kind("Q8_1", 32, 36),
    10: Kind("Q2_K", 256, 84), 11: Kind("Q3_K", 256, 110), 13: Kind("Q5_K", 256, 176), 14: Kind("Q6_K", 256, 210),
    15: Kind("Q8_K", 256, 292), 16: Kind("IQ2_XXS", 256, 66), 17: Kind("IQ2_XS", 256, 74), 18: Kind("IQ3_XXS", 256, 98),
    19: Kind("IQ1_S", 256, 50), 20: Kind("IQ4_NL", 32, 18), 21: Kind("IQ3_S", 256, 110), 22: Kind("IQ2_S", 256, 82),
    23: Kind("IQ4_XS", 256, 136), 29: Kind("IQ1_M", 256, 56), 34: Kind("TQ1_0", 256, 54), 35: Kind("TQ2_0", 256, 66),
    39: Kind("MXFP4", 32, 17), 40: Kind("NVFP4", 64, 36),
}  # fmt: skip
"""By number (enum ggml_type)."""
