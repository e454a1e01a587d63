"""GGUF files, written by hand after the format's description; quantized values against a reading of it number by number."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from mutants import survive

import milepost
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.gguf import Gguf

rng = np.random.default_rng(0)
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def text(value: str, order: str = "<", count: str = "Q") -> bytes:
    return struct.pack(order + count, len(value.encode())) + value.encode()


def value(kind: int, of: Any, order: str = "<", count: str = "Q") -> bytes:
    if kind == 8:
        return text(of, order, count)
    if kind == 9:
        inner, items = of
        return struct.pack(order + "I" + count, inner, len(items)) + b"".join(
            value(inner, item, order, count) for item in items
        )
    return struct.pack(order + CODES[kind], of)


def gguf(
    values: dict[str, tuple[int, Any]], tensors: list[tuple[str, tuple[int, ...], int, bytes]], version: int = 3,
    order: str = "<", alignment: int = 32,
) -> bytes:  # fmt: skip
    count = "I" if version == 1 else "Q"
    out = b"GGUF" + struct.pack(f"{order}I2{count}", version, len(tensors), len(values))
    for key, (kind, of) in values.items():
        out += text(key, order, count) + struct.pack(order + "I", kind) + value(kind, of, order, count)
    data = b""
    for name, shape, kind, raw in tensors:
        out += text(name, order, count) + struct.pack(f"{order}I{len(shape)}{count}", len(shape), *shape[::-1])
        out += struct.pack(order + "IQ", kind, len(data))
        data += raw.ljust(-(-len(raw) // alignment) * alignment, b"\0")
    return out.ljust(-(-len(out) // alignment) * alignment, b"\0") + data


def q4_0(block: bytes) -> list[float]:
    (scale,) = struct.unpack_from("<e", block)
    out = [0.0] * 32
    for place in range(16):
        out[place] = scale * ((block[2 + place] & 15) - 8)
        out[place + 16] = scale * ((block[2 + place] >> 4) - 8)
    return out


def q8_0(block: bytes) -> list[float]:
    return [struct.unpack_from("<e", block)[0] * number for number in struct.unpack_from("32b", block, 2)]


def q4_k(block: bytes) -> list[float]:
    scale, least = struct.unpack_from("<2e", block)
    packed, numbers, out = block[4:16], block[16:], []
    for run in range(8):
        if run < 4:
            a, b = packed[run] & 63, packed[run + 4] & 63
        else:
            a = packed[run + 4] & 15 | packed[run - 4] >> 6 << 4
            b = packed[run + 4] >> 4 | packed[run] >> 6 << 4
        for place in range(32):
            byte = numbers[run // 2 * 32 + place]
            out.append(scale * a * (byte >> 4 if run % 2 else byte & 15) - least * b)
    return out


READ = {2: (q4_0, 32, 18, 1), 8: (q8_0, 32, 34, 1), 12: (q4_k, 256, 144, 2)}


def blocks(kind: int, count: int) -> bytes:
    """Random blocks with scales that are no NaN."""
    _, _, size, scales = READ[kind]
    raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
    raw[:, : 2 * scales] = rng.normal(size=(count, scales)).astype("<f2").view(np.uint8)
    return raw.tobytes()


@pytest.mark.parametrize("kind", READ)
def test_quantized_numbers(tmp_path: Path, kind: int) -> None:
    read, per_block, size, _ = READ[kind]
    raw = blocks(kind, 6)
    (tmp_path / "m.gguf").write_bytes(gguf({}, [("a", (3,), 0, bytes(12)), ("w", (3, 2 * per_block), kind, raw)]))
    source = milepost.open(tmp_path / "m.gguf")
    assert source.specs["w"].dtype.name == "float32"
    expected = [number for at in range(0, len(raw), size) for number in read(raw[at : at + size])]
    np.testing.assert_allclose(source["w"].reshape(-1), expected, rtol=1e-6, atol=1e-5)
    assert source["w"].shape == (3, 2 * per_block)


@pytest.mark.parametrize("order", ["<", ">"])
def test_plain_types_metadata_and_raw_blocks(tmp_path: Path, order: str) -> None:
    arrays = {0: "f4", 1: "f2", 28: "f8", 24: "i1", 25: "i2", 26: "i4", 27: "i8"}
    made = {kind: rng.integers(-9, 9, (2, 3)).astype(order + code) for kind, code in arrays.items()}
    half = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    tensors = [(f"t.{kind}", (2, 3), kind, array.tobytes()) for kind, array in made.items()]
    tensors += [
        ("bf", (2,), 30, (half if order == "<" else half.byteswap()).tobytes()),
        ("q6", (2, 256), 14, bytes(range(210)) * 2),
    ]
    values = {
        "general.architecture": (8, "llama"), "general.alignment": (4, 64), "n": (11, -5), "yes": (7, True),
        "tokens": (9, (8, ["<s>", "ü", ""])), "few": (9, (6, [0.5, 1.0])), "scores": (9, (6, [0.5] * 100)),
        "nested": (9, (9, [(0, [1, 2]), (8, ["x"])])),
    }  # fmt: skip
    (tmp_path / "m.gguf").write_bytes(gguf(values, tensors, order=order, alignment=64))
    source = milepost.open(tmp_path / "m.gguf")
    assert isinstance(source, Gguf)
    for kind, array in made.items():
        np.testing.assert_array_equal(source[f"t.{kind}"], array)
        assert source[f"t.{kind}"].dtype == array.dtype.newbyteorder("=")
    assert source["bf"].astype(float).tolist() == [1.5, -2.0]
    assert source["q6"].shape == (2, 210)
    assert source["q6"][1].tolist() == list(range(210))
    assert source["metadata/scores"].tolist() == [0.5] * 100
    assert source.plain == {
        "metadata/general.architecture": "llama", "metadata/general.alignment": 64, "metadata/n": -5, "metadata/yes": True,
        "metadata/tokens": ["<s>", "ü", ""], "metadata/few": [0.5, 1.0], "metadata/nested": [[1, 2], ["x"]],
    }  # fmt: skip
    assert source.notes["q6"] == "Q6_K"
    assert (source.metadata["architecture"], source.metadata["version"]) == ("llama", 3)


@pytest.mark.parametrize("version", [1, 2])
def test_earlier_versions(tmp_path: Path, version: int) -> None:
    (tmp_path / "m").write_bytes(gguf({"k": (8, "v")}, [("w", (2,), 0, struct.pack("<2f", 1, 2))], version=version))
    source = milepost.open(tmp_path / "m")
    assert source["w"].tolist() == [1, 2]
    assert source.plain == {"metadata/k": "v"}


def small() -> bytes:
    return gguf(
        {"general.architecture": (8, "x"), "list": (9, (8, ["a", "b"])), "scores": (9, (6, [1.0] * 70))},
        [("w", (2, 3), 0, bytes(24)), ("q", (1, 32), 8, blocks(8, 1)), ("k", (256,), 12, blocks(12, 1))],
    )


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(gguf({}, [("w", (1,), 24, b"\1"), ("w", (1,), 24, b"\2")]))
    source = milepost.open(tmp_path / "m")
    assert {path: source[path].tolist() for path in source} == {"w": [1], "w~n2": [2]}


def test_many_tensors_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(gguf({}, [("w", (1,), 24, b"\1")] * 30))
    with pytest.raises(UnsafeContentError, match="one name"):
        milepost.open(tmp_path / "m")


@pytest.mark.parametrize(
    "raw",
    [
        b"GGUF",
        b"GGUF" + struct.pack("<IQQ", 4, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 63),  # a key of impossible length
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 6, 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100,
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 77),
        gguf({"general.alignment": (4, 0)}, []),
        gguf({"general.alignment": (8, "x")}, []),
        gguf({}, [("w", (1 << 40, 1 << 40), 0, b"")]),
        gguf({}, [("w", (1,) * 65, 0, bytes(4))]),
        gguf({}, [("w", (33,), 8, bytes(68))]),
        gguf({}, [("w", (), 8, bytes(34))]),
        gguf({}, [("w", (1,), 999, bytes(4))]),
        gguf({}, [("w", (1000,), 0, bytes(4))]),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "m").write_bytes(raw)
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "m")["w"]


def test_values_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.formats.gguf.LARGEST_HEADER", 1 << 20)
    empty = struct.pack("<Q", 0)
    raw = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 20) + empty * (1 << 18)
    (tmp_path / "m").write_bytes(raw)
    with pytest.raises(FormatError, match="impossibly long"):
        milepost.open(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 30, 0))
    with pytest.raises(UnsafeContentError):
        milepost.open(tmp_path / "m")


def test_mutants(tmp_path: Path, fuzz: int) -> None:
    (tmp_path / "m").write_bytes(small())
    survive(tmp_path / "m", tmp_path / "m", fuzz)
