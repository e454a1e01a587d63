"""The element types of TensorFlow (tensorflow/core/framework/types.proto) by number."""

from __future__ import annotations

STRING = 7
TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64", 10: "bool",
    11: "int8", 12: "uint8", 13: "int32", 14: "bfloat16", 15: "int16", 16: "uint16",  # those from 11 on are quantized
    17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64", 24: "float8_e5m2", 25: "float8_e4m3fn",
    26: "float8_e4m3fnuz", 27: "float8_e4m3b11fnuz", 28: "float8_e5m2fnuz", 29: "int4", 30: "uint4", 31: "int2",
    32: "uint2",
}  # fmt: skip
"""Without strings, which are plain values, and variants and resources, which are shown as bytes."""
NAMES = TYPES | {STRING: "string", 20: "resource", 21: "variant"}
