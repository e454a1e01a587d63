"""The format holds: what every version of it wrote is read, and today's code writes the same bytes."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import milepost
from milepost.core import dtypes
from milepost.core.digest import digest, file_digest
from milepost.core.layout import plan
from milepost.core.manifest import File, Manifest, Shard, Summary, Tensor, decode, encode

GOLDEN = Path(__file__).with_name("golden")
make: Any = runpy.run_path(str(GOLDEN / "make.py"))
state = make["state"]
VERSIONS = pytest.mark.parametrize("version", ["v1", "v1.1"])


@VERSIONS
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_is_read(version: str, step: int) -> None:
    source = milepost.open(f"{GOLDEN / version}@step={step}")

    expected = state(step)["model"]
    assert {path.removeprefix("model/") for path in source if path.startswith("model/")} == expected.keys()
    for name, array in expected.items():
        read = source[f"model/{name}"]
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes()), name
    assert source.plain["plain/big"] == 2**70
    assert source.plain["plain/name"] == "größe/~"
    assert source.metadata["step"] == step
    assert source.metadata["metrics"] == {"loss": 1 / step}


@VERSIONS
def test_a_run_continues(tmp_path: Path, version: str) -> None:
    shutil.copytree(GOLDEN / version, tmp_path / "run", symlinks=True)

    more = {"jax": make["jax_state"]()} if version == "v1.1" else {}
    with milepost.Checkpointer(tmp_path / "run", signals=(), progress=False, **state(0), **more) as run:
        assert run.progress.step == 3
        assert run["plain"] == state(3)["plain"]
        assert all(type(a) is type(b) for a, b in zip(run["plain"], state(3)["plain"], strict=True))
        assert np.array_equal(run["model"]["first.weight"], state(3)["model"]["first.weight"])


def test_arrays_of_jax_are_what_they_were(tmp_path: Path) -> None:
    import jax

    shutil.copytree(GOLDEN / "v1.1", tmp_path / "run", symlinks=True)
    blank = jax.tree.map(jax.numpy.zeros_like, make["jax_state"]())
    with milepost.Checkpointer(tmp_path / "run", signals=(), progress=False, **state(0), jax=blank) as run:
        found, expected = run["jax"], make["jax_state"]()
    assert found["scale"].weak_type
    assert jax.random.key_impl(found["keys"]) == jax.random.key_impl(expected["keys"])
    assert (jax.random.key_data(found["keys"]) == jax.random.key_data(expected["keys"])).all()
    assert (found["raw"] == expected["raw"]).all()


def test_boxes_are_put_together() -> None:
    source = milepost.open(GOLDEN / "v1.1-ranks")
    assert source["model/weight"].tolist() == np.arange(15.0).reshape(5, 3).tolist()
    assert source["model/bias"].astype(np.float32).tolist() == [0, 1, 2, 3, 4]
    assert source.plain["step"] == source.metadata["step"] == 3
    assert len(source.manifest.tensors["model/weight"].shards) == 2


def test_the_bytes_of_a_file_are_fixed() -> None:
    layout = plan(
        [
            ("b", dtypes.dtype("float32"), (2, 3)),
            ("a", dtypes.dtype("float32"), ()),
            ("wide", dtypes.dtype("complex128"), (1,)),
            ("narrow", dtypes.dtype("bfloat16"), (3,)),
            ("none", dtypes.dtype("int8"), (0, 5)),
        ],
        {"format": "pt"},
    )

    text = (
        b'{"__metadata__":{"format":"pt"},'
        b'"wide":{"dtype":"U8","shape":[16],"data_offsets":[0,16]},'
        b'"a":{"dtype":"F32","shape":[],"data_offsets":[16,20]},'
        b'"b":{"dtype":"F32","shape":[2,3],"data_offsets":[20,44]},'
        b'"narrow":{"dtype":"BF16","shape":[3],"data_offsets":[44,50]},'
        b'"none":{"dtype":"I8","shape":[0,5],"data_offsets":[50,50]}}'
    )
    assert layout.header == (4088).to_bytes(8, "little") + text.ljust(4088)
    assert layout.size == 4096 + 50
    assert not layout.plain


def test_the_digests_are_fixed() -> None:
    assert digest(b"milepost") == "xxh3-128:5f3dcfd845c34148a81693cfbaf8da2a"
    assert file_digest(b"header", [digest(b"one"), digest(b"two")]) == "xxh3-128:42e85a203891c3f1e3a9edc1d6fba3aa"


def manifest(version: str) -> Manifest:
    summary = Summary(
        version, "0123456789abcdef", 1, 469, 1, 0, "epoch-ended", "2026-01-02T03:04:05Z", {"loss": 0.5, "odd": "nan"}
    )
    shard = Shard("model.safetensors", "w", digest(b"w"), finite=True)
    items: dict[str, Any] = {"model": {"$tensors": {"under": "model", "names": ["w", "v"]}}}
    tensors = {
        "model/w": Tensor("float32", (2, 3), (shard,), trained=True),
        "model/v": Tensor("float32", (2, 3), same_as="model/w"),
    }
    if version == "1.1":
        items["rest"] = {"$tensors": {"under": "rest", "names": ["keys", "rows"]}}
        rows = [
            Shard(f"rest.rank-{rank}.safetensors", "rows", digest(b"r"), None, (rank, 0), (1, 3)) for rank in (0, 1)
        ]
        keys = Shard("rest.rank-0.safetensors", "keys", digest(b"k"))
        tensors["rest/keys"] = Tensor("uint32", (2,), (keys,), type="jax", variant="key<threefry2x32>")
        tensors["rest/rows"] = Tensor("float32", (2, 3), tuple(rows), type="torch", device="cuda:0")
    files = {shard.file: File(4120, digest(b"file")) for tensor in tensors.values() for shard in tensor.shards}
    files["model.safetensors"] = File(4120, digest(b"file"), plain=True)
    return Manifest(summary, items, tensors, files, {"milepost": "0.1.0"})


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_bytes_of_a_manifest_are_fixed(version: str) -> None:
    golden = (GOLDEN / f"manifest-{version}.json").read_bytes()
    assert encode(manifest(version)) == golden
    assert decode(golden, "here") == manifest(version)
    assert msgspec.json.decode(golden)["summary"]["step"] == 469  # and it is plain JSON
