"""States that Flax and Equinox wrote, against what they hold."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from mutants import survive

import milepost
from milepost.errors import FormatError, UnsafeContentError

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    names = [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ]
    arrays: dict[str, Any] = {name: rng.integers(0, 5, (3, 4)).astype(name) for name in names}
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"):
        arrays[name] = rng.integers(0, 5, (3, 4)).astype(getattr(ml_dtypes, name))
    return {
        "step": np.int32(70),
        "params": {"dense/0": {"kernel": arrays["float32"].T, "bias": np.zeros(0, np.float32)}, "all": arrays},
        "opt_state": {"0": {"count": np.array(3)}, "1": {}},
        "plain": {"name": "ü", "rate": 1e-3, "big": 2**63, "negative": -5, "none": None, "c": 1 + 2j, "yes": True, "raw": b"\xff"},
    }  # fmt: skip


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {
        key: leaf
        for name, child in value.items()
        for key, leaf in flat(child, f"{path}/{name.replace('/', '~1')}").items()
    }


def test_every_value(tmp_path: Path, state: dict[str, Any]) -> None:
    from flax import serialization

    (tmp_path / "s.msgpack").write_bytes(serialization.to_bytes(state))
    source = milepost.open(tmp_path / "s.msgpack")
    expected = {path[1:]: value for path, value in flat(state).items()}
    assert source.specs.keys() | source.plain.keys() == expected.keys()
    for path, value in expected.items():
        if isinstance(value, np.ndarray | np.generic):
            assert (source[path].dtype, source[path].shape) == (value.dtype, value.shape)
            assert source[path].tobytes() == value.tobytes()
        else:
            assert source.plain[path] == value
    assert source.metadata["step"] == 70


def test_tuples_of_orbax(tmp_path: Path) -> None:
    from orbax.checkpoint import msgpack_utils

    (tmp_path / "s").write_bytes(msgpack_utils.msgpack_serialize({"pair": (1, (np.zeros(2), "x")), "none": ()}))
    source = milepost.open(tmp_path / "s")
    assert source.plain == {"pair/0": 1, "pair/1/1": "x", "none": ()}
    assert source["pair/1/0"].tolist() == [0, 0]


def test_large_arrays_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flax import serialization

    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 1000)
    array = rng.normal(size=(70, 13)).astype(np.float32)
    (tmp_path / "s").write_bytes(serialization.msgpack_serialize({"w": array}))
    assert b"__msgpack_chunked_array__" in (tmp_path / "s").read_bytes()
    source = milepost.open(tmp_path / "s")
    assert list(source) == ["w"]
    np.testing.assert_array_equal(source["w"], array)


def test_one_array_costs_one_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flax import serialization

    from milepost.formats.place import File

    (tmp_path / "s").write_bytes(
        serialization.msgpack_serialize({str(count): np.full(500_000, count, np.int32) for count in range(20)})
    )
    read = []
    plainly = File.read_into

    def counted(self: File, offset: int, out: memoryview) -> None:
        read.append(len(out))
        plainly(self, offset, out)

    monkeypatch.setattr(File, "read_into", counted)
    assert (milepost.open(tmp_path / "s")["7"] == 7).all()
    assert sum(read) < 9_000_000


def array_of(shape: bytes, name: bytes, raw: bytes) -> bytes:
    inner = b"\x93" + shape + name + b"\xc4" + bytes([len(raw)]) + raw
    return b"\xc7" + bytes([len(inner), 1]) + inner


F32 = b"\xa7float32"


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        b"",
        b"\xdb\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 500 + b"\xc0",
        b"\xd4\x09\x00",
        b"\xd5\x02\xc0\xc0",
        array_of(b"\x91\xcf" + struct.pack(">Q", 1 << 60), F32, bytes(4)),
        array_of(b"\x92\xff\xfc", F32, bytes(16)),
        array_of(b"\x91\xa1x", F32, bytes(4)),
        array_of(b"\x91\x01", b"\xa6object", bytes(8)),
        array_of(b"\x91\x02", F32, bytes(4)),
        array_of(b"\xdc\x00\x41" + b"\x01" * 65, F32, bytes(4)),
        b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x80\xa6chunks\x80",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x01\x02",
    ],
)
def test_states_that_cannot_be(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "s").write_bytes(b"\x81\xa1k" + body)
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "s")


def test_values_without_end(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"\x81\xa1k\xdd" + struct.pack(">I", 2_000_000) + b"\xc0" * 2_000_000)
    with pytest.raises(UnsafeContentError, match="more values"):
        milepost.open(tmp_path / "s")


def test_mutants_of_flax(tmp_path: Path, fuzz: int) -> None:
    kernel = array_of(b"\x92\x02\x03", F32, np.arange(6, dtype=np.float32).tobytes())
    half = array_of(b"\x91\x02", b"\xa8bfloat16", bytes(4))
    chunked = b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x04\xa6chunks\x82\xa10" + half + b"\xa11" + half
    (tmp_path / "s").write_bytes(
        b"\x84\xa4step\x05\xa6params\x81\xa6kernel" + kernel + b"\xa1c" + chunked + b"\xa1x\xcb" + bytes(8)
    )
    source = milepost.open(tmp_path / "s")
    assert source["params/kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert source["c"].tolist() == [0] * 4
    survive(tmp_path / "s", tmp_path / "s", fuzz)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import equinox
    import jax

    folder = tmp_path_factory.mktemp("equinox")
    model = equinox.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    half = jax.numpy.ones((3,), jax.numpy.bfloat16)
    equinox.tree_serialise_leaves(folder / "model.eqx", (model, half, 7, 1.5, True))
    with (folder / "config.eqx").open("wb") as file:
        file.write((json.dumps({"width": 4}) + "\n").encode())
        equinox.tree_serialise_leaves(file, model)
    leaves = [leaf for leaf in jax.tree.leaves((model, half, 7, 1.5, True)) if not callable(leaf)]
    np.savez(
        folder / "expected.npz",
        *[np.asarray(leaf).view(np.uint8) if leaf is half else np.asarray(leaf) for leaf in leaves],
    )
    return folder


def test_equinox(saved: Path) -> None:
    expected = np.load(saved / "expected.npz")
    source = milepost.open(saved / "model.eqx")
    assert source.metadata["format"] == "leaves written by Equinox"
    assert len(source) == len(expected.files) == 8
    for place, path in enumerate(source):
        assert source[path].tobytes() == expected[f"arr_{place}"].tobytes()
    source = milepost.open(saved / "config.eqx")
    assert source.plain == {"config": {"width": 4}}
    assert [source[path].shape for path in source] == [(4, 2), (4,), (3, 4), (3,)]


def test_leaves_that_are_cut_short(saved: Path, tmp_path: Path) -> None:
    raw = (saved / "model.eqx").read_bytes()
    (tmp_path / "m.eqx").write_bytes(raw[:-3])
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "m.eqx")
    (tmp_path / "m.eqx").write_bytes(raw + b"more")
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "m.eqx")
    (tmp_path / "m.eqx").write_bytes(raw + raw[:20])
    with pytest.raises(FormatError):
        milepost.open(tmp_path / "m.eqx")


@pytest.mark.parametrize("name", ["model.eqx", "config.eqx"])
def test_mutants_of_equinox(saved: Path, tmp_path: Path, fuzz: int, name: str) -> None:
    (tmp_path / "m.eqx").write_bytes((saved / name).read_bytes())
    survive(tmp_path / "m.eqx", tmp_path / "m.eqx", fuzz)
