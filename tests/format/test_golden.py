"""The format holds: a run written by version 1.0 is read, and today's code writes the same bytes."""

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
from milepost.core.manifest import File, Manifest, Shard, Summary, Tensor, encode

GOLDEN = Path(__file__).with_name("golden")
state: Any = runpy.run_path(str(GOLDEN / "make.py"))["state"]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_of_version_1_is_read(step: int) -> None:
    source = milepost.open(f"{GOLDEN / 'v1'}@step={step}")

    expected = state(step)["model"]
    assert {path.removeprefix("model/") for path in source if path.startswith("model/")} == expected.keys()
    for name, array in expected.items():
        read = source[f"model/{name}"]
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes()), name
    assert source.plain["plain/big"] == 2**70
    assert source.plain["plain/name"] == "größe/~"
    assert source.metadata["step"] == step
    assert source.metadata["metrics"] == {"loss": 1 / step}


def test_a_run_of_version_1_continues(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "v1", tmp_path / "run", symlinks=True)

    with milepost.Checkpointer(tmp_path / "run", signals=(), progress=False, **state(0)) as run:
        assert run.progress.step == 3
        assert run["plain"] == state(3)["plain"]
        assert all(type(a) is type(b) for a, b in zip(run["plain"], state(3)["plain"], strict=True))
        assert np.array_equal(run["model"]["first.weight"], state(3)["model"]["first.weight"])


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


def test_the_bytes_of_a_manifest_are_fixed() -> None:
    summary = Summary(
        "1.0", "0123456789abcdef", 1, 469, 1, 0, "epoch-ended", "2026-01-02T03:04:05Z", {"loss": 0.5, "odd": "nan"}
    )
    shard = Shard("model.safetensors", "w", digest(b"w"), finite=True)
    manifest = Manifest(
        summary,
        {"model": {"$tensors": {"under": "model", "names": ["w", "v"]}}},
        {
            "model/w": Tensor("float32", (2, 3), (shard,), trained=True),
            "model/v": Tensor("float32", (2, 3), same_as="model/w"),
        },
        {"model.safetensors": File(4120, digest(b"file"), plain=True)},
        {"milepost": "0.1.0"},
    )

    assert encode(manifest) == (GOLDEN / "manifest-1.0.json").read_bytes()
    assert msgspec.json.decode(encode(manifest))["summary"]["step"] == 469  # and it is plain JSON
