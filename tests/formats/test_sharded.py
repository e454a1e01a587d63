"""Weights in several files and an index of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import milepost
from milepost.errors import FormatError, MilepostError, NotFoundError, UnsafeContentError

WEIGHTS = {
    "layers.0.weight": torch.arange(6.0).reshape(2, 3),
    "layers.0.bias": torch.arange(2, dtype=torch.bfloat16),
    "layers/1~weight": torch.arange(4),
    "": torch.tensor(True),
}


def write(folder: Path, kind: str, **index: Any) -> Path:
    """The first two tensors in one file, the others in another."""
    names = list(WEIGHTS)
    where = {}
    for number, wanted in enumerate((names[:2], names[2:]), 1):
        file = f"model-{number:05}-of-00002.{kind}"
        part = {name: WEIGHTS[name] for name in wanted}
        (save_file if kind == "safetensors" else torch.save)(part, folder / file)
        where |= dict.fromkeys(wanted, file)
    path = folder / f"model.{kind}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 61}, "weight_map": where} | index))
    return path


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_files_are_one(tmp_path: Path, kind: str) -> None:
    source = milepost.open(write(tmp_path, kind))
    assert source.metadata == {"format": "weights in several files", "files": 2}
    assert source.plain == {"__metadata__/total_size": 61}
    assert set(source) == {"layers.0.weight", "layers.0.bias", "layers~11~0weight", "~"}
    np.testing.assert_array_equal(source["layers.0.weight"], WEIGHTS["layers.0.weight"])
    assert source["layers.0.bias"].astype(float).tolist() == [0, 1]
    assert source["layers~11~0weight"].tolist() == [0, 1, 2, 3]
    assert source["~"].tolist() is True
    assert not source["~"].flags.writeable


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_in_their_folder_they_are_the_model(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    source = milepost.open(tmp_path)
    assert set(source) == {"model/layers.0.weight", "model/layers.0.bias", "model/layers~11~0weight", "model/~"}
    assert source["model/~"].tolist() is True


def test_what_the_index_does_not_name_is_shown_too(tmp_path: Path) -> None:
    index = write(tmp_path, "bin")
    told = json.loads(index.read_text())
    del told["weight_map"]["layers.0.bias"]
    index.write_text(json.dumps(told))
    assert "layers.0.bias" in milepost.open(index)


def test_of_a_tensor_in_two_files_the_one_that_the_index_names(tmp_path: Path) -> None:
    index = write(tmp_path, "bin")
    torch.save(WEIGHTS | {"layers.0.weight": torch.zeros(7)}, tmp_path / "model-00002-of-00002.bin")
    told = json.loads(index.read_text())
    assert milepost.open(index).specs["layers.0.weight"].shape == (2, 3)
    del told["weight_map"]["layers.0.weight"]
    index.write_text(json.dumps(told))
    with pytest.raises(FormatError, match=r"'layers\.0\.weight' is in two files"):
        milepost.open(index)


def test_a_download_of_the_hub_with_its_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write(snapshot, "safetensors")
    for number, file in enumerate(sorted(snapshot.iterdir())):
        blob = f"{number:064x}"
        file.rename(blobs / blob)
        file.symlink_to(f"../../blobs/{blob}")
    assert milepost.open(snapshot)["model/layers.0.weight"].shape == (2, 3)


@pytest.mark.parametrize(
    ("weight_map", "error", "says"),
    [
        ({"a": "model-00001-of-00002.bin"}, FormatError, "tensor 'a' is not in the file that the index names"),
        ({"a": "gone.bin"}, NotFoundError, "a file that the index names is missing"),
        ({"a": "../outside.bin"}, UnsafeContentError, "has an empty part, . or .. in it"),
        ({"a": "a/../../b.bin"}, UnsafeContentError, "has an empty part, . or .. in it"),
        ({"a": ".."}, UnsafeContentError, "has an empty part, . or .. in it"),
        ({"a": ""}, UnsafeContentError, "is empty"),
        ({"a": "a\\b"}, UnsafeContentError, "has a NUL or backslash"),
        ({"a": "model.bin.index.json"}, FormatError, "of no format that is read"),
        ({"a": "/etc/passwd"}, UnsafeContentError, "is an absolute path"),
        ({"a": "b\0c"}, UnsafeContentError, "has a NUL"),
        ({"a": "b\nc"}, NotFoundError, "missing"),
        ({"a": "x" * 10_000}, UnsafeContentError, "has 10000 characters"),
        ({"a": "link.bin"}, UnsafeContentError, "a link leads out"),
        ({"a": "pipe.bin"}, FormatError, "not a regular file"),
        ({"a": "folder"}, FormatError, "not a regular file"),
        ({"a": "pointer.bin"}, FormatError, "of no format that is read"),
        ({"a": 3}, FormatError, "names no file for tensor 'a'"),
        ([], FormatError, "has no weight_map"),
        ({str(at): f"{at}.bin" for at in range(6000)}, FormatError, "more files than are read"),
    ],
)
@pytest.mark.parametrize("how", ["index", "folder"])
def test_an_index_that_cannot_be(
    tmp_path: Path, weight_map: Any, error: type[MilepostError], says: str, how: str
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    index = write(folder, "bin", weight_map=weight_map)
    torch.save({"a": torch.ones(1)}, tmp_path / "outside.bin")
    odd: dict[str, Callable[[], object]] = {
        "link.bin": lambda: (folder / "link.bin").symlink_to("../outside.bin"),
        "pipe.bin": lambda: os.mkfifo(folder / "pipe.bin"),
        "folder": lambda: (folder / "folder").mkdir(),
        "pointer.bin": lambda: (folder / "pointer.bin").write_text("version https://git-lfs.github.com/spec/v1\n"),
    }
    for name in weight_map.values() if isinstance(weight_map, dict) else ():
        odd.get(name, lambda: None)()
    with pytest.raises(error) as caught:
        milepost.open(index if how == "index" else folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value.where)


@pytest.mark.parametrize(
    "text", ['{"weight_map": {"a": ' + "[" * 100_000, '{"weight_map": {', '{"weight_map": nan}', '{"weight_map": {}} x']
)
def test_an_index_that_is_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.bin.index.json").write_text(text)
    for place in (tmp_path, tmp_path / "model.bin.index.json"):
        with pytest.raises(FormatError, match="not JSON of the expected form"):
            milepost.open(place)
