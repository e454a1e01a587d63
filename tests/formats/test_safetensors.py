"""Single safetensors files, against what the library writes; headers that cannot be; mutants of these and of other small files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_format import FORMATS
from mutants import survive
from safetensors.torch import save_file

import milepost
from milepost.errors import FormatError

KINDS = [
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16", "float32", "float64",
    "float8_e4m3fn", "float8_e5m2", "complex64",
]  # fmt: skip


def test_every_type(tmp_path: Path) -> None:
    tensors = {name: torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, name)) for name in KINDS}
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 3), "a/b~": torch.arange(3)}
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt", "note": "ü"})
    source = milepost.open(tmp_path / "x.safetensors")
    assert source.metadata == {"format": "a safetensors file", "written_by": {"framework": "pt"}}
    assert source.plain == {"__metadata__/format": "pt", "__metadata__/note": "ü"}
    assert set(source) == {*KINDS, "scalar", "none", "a~1b~0"}
    for name in KINDS:
        assert source.specs[name].dtype.name == name
        assert source[name].dtype.name == name
        assert source[name].tobytes() == tensors[name].view(torch.uint8).numpy().tobytes()
    assert source["scalar"] == 2.5
    assert source["none"].shape == (0, 3)


def test_numbers_of_four_bits_and_scales(tmp_path: Path) -> None:
    header = {
        "four": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]},
        "scale": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [4, 6]},
    }
    (tmp_path / "x.safetensors").write_bytes(file(header, bytes(range(6))))
    source = milepost.open(tmp_path / "x.safetensors")
    assert (source.specs["four"].dtype.name, source.specs["four"].shape) == ("float4_e2m1fn_x2", (2, 2))
    assert source["four"].tobytes() == bytes(range(4))
    assert source["scale"].dtype.name == "float8_e8m0fnu"


def file(header: Any, data: bytes = bytes(8)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(first: int = 0, last: int = 8, shape: Any = (2,), kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (file({"a": entry(), "b": entry(4, 8, (1,))}), "overlaps another"),
        (file({"a": entry(0, 1 << 40, (1 << 38,))}), "outside the file"),
        (file({"a": entry(-8, 0)}), "outside the file"),
        (file({"a": entry(8, 0)}), "outside the file"),
        (file({"a": entry(0, 4)}), "another size than its shape says"),
        (file({"a": entry(shape=(-2,))}), "outside the file"),
        (file({"a": entry(shape=(0, 1 << 62, 1 << 62))}), "impossibly large"),
        (file({"a": entry(shape=(1,) * 65)}), "impossible shape"),
        (file({"a": entry(shape="2")}), "cannot be read"),
        (file({"a": entry(kind="F33")}), "unknown dtype"),
        (file({"a": {"dtype": "F32"}}), "cannot be read"),
        (file({"a": 5}), "cannot be read"),
        (file({"__metadata__": 5}), "cannot be read"),
        (file({"__metadata__": {"a": []}}), "cannot be read"),
        (file(b"{" + b"}" * 20), "cannot be read"),
        (file(b'{"a": \xff\xff}'), "cannot be read"),
        (file(b'{"a": ' + b"[" * 100_000 + b"}"), "cannot be read"),
        (file({"a": entry()})[:40], "cut short"),
        (struct.pack("<Q", 90_000_000) + b"{}      ", "cut short"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=says):
        milepost.open(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["safetensors", "npy", "npz", "sharded", "plain_pickle", "torch_legacy"])
def test_mutants(tmp_path: Path, fuzz: int, name: str) -> None:
    place = FORMATS[name](tmp_path / "x", {"a": (2, 3), "b": ()})
    np.testing.assert_array_equal(next(iter(milepost.open(place).values())), np.zeros((2, 3)))
    survive(place, place, fuzz)


def test_mutants_of_a_keras_archive(tmp_path: Path, fuzz_processes: int) -> None:
    place = FORMATS["keras"](tmp_path / "x", {"a": (2, 3), "b": ()})
    survive(place, place, fuzz_processes)
