"""Folders of torch.distributed.checkpoint, against what torch makes of them."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

import milepost
from milepost.core.paths import join
from milepost.errors import DamagedError, FormatError, NotFoundError, UnsafeContentError


@pytest.fixture(scope="module")
def made(make: Callable[[str], Path]) -> Path:
    return make("distributed_folders")


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "group", tmp_path / "group"))


def leaves(value: Any, parts: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, (*parts, str(key)))
    else:
        yield join(parts), value


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("name", ["alone", "group"])
def test_every_value_is_what_torch_makes_of_it(made: Path, name: str) -> None:
    source = milepost.open(made / name)
    assert source.metadata["format"] == "a folder of torch.distributed.checkpoint"
    expected = dict(leaves(torch.load(made / f"{name}.pt", weights_only=False)))
    tensors = {path: value for path, value in expected.items() if isinstance(value, torch.Tensor)}
    assert len(tensors) >= 6
    assert set(source) == set(tensors)
    assert dict(source.plain) == {path: value for path, value in expected.items() if path not in tensors}
    for path, tensor in tensors.items():
        assert source.specs[path].shape == tuple(tensor.shape)
        assert source.specs[path].dtype.name == str(tensor.dtype).removeprefix("torch.")
        array = source[path]
        assert array.shape == tuple(tensor.shape)
        assert array.tobytes() == as_bytes(tensor), path
        assert array.flags.c_contiguous
        assert not array.flags.writeable


def test_keys_are_levels_of_the_path_and_the_step_is_told(made: Path) -> None:
    alone = milepost.open(made / "alone")
    assert {"model/0.weight", "optimizer/state/0/exp_avg", "a.b/c~1d", "a.b/~0/0"} <= set(alone)
    assert alone.plain["a.b/~0/1/deep"] == 3
    assert alone.metadata["step"] == 7
    assert milepost.open(made / "group").metadata["step"] == 12


def test_what_each_process_saved_by_itself(made: Path) -> None:
    source = milepost.open(made / "ranks")
    assert {path: int(source[path]) for path in source} == {f"rank{rank}/of rank": rank for rank in range(4)}
    assert dict(source.plain) == {f"rank{rank}/epoch": rank for rank in range(4)}


def test_what_lightning_writes_beside(copied: Path) -> None:
    torch.save({"epoch": 2, "global_step": 40, "pytorch-lightning_version": "2.6.6"}, copied / "meta.pt")
    source = milepost.open(copied)
    assert source.metadata["written_by"] == {"Lightning": "2.6.6"}
    assert (source.metadata["step"], source.metadata["epoch"]) == (40, 2)
    assert source.plain["meta/global_step"] == 40
    assert "rows" in source


def test_one_tensor_needs_the_files_of_its_boxes_alone(copied: Path) -> None:
    source = milepost.open(copied)
    told = pickle.loads((copied / ".metadata").read_bytes())
    file = copied / told.storage_data[MetadataIndex("rows", [0, 0])].relative_path
    assert file.name != told.storage_data[MetadataIndex("columns", [0, 0])].relative_path
    assert file.name != told.storage_data[MetadataIndex("columns", [0, 3])].relative_path
    with file.open("r+b") as opened:
        opened.write(b"not a zip")
    np.testing.assert_array_equal(milepost.open(copied)["columns"], np.arange(35).reshape(7, 5))
    with pytest.raises(FormatError) as caught:
        milepost.open(copied)["rows"]
    assert str(file) in str(caught.value.where)
    with pytest.raises(DamagedError, match="changed while it was being read"):
        source["rows"]


def test_a_checkpoint_that_was_not_finished(copied: Path) -> None:
    (copied / ".metadata").unlink()
    with pytest.raises(FormatError, match="was not finished"):
        milepost.open(copied)


def test_a_file_that_is_missing_or_cut_short(copied: Path) -> None:
    file = copied / "__2_0.distcp"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(FormatError, match="cut short"):
        milepost.open(copied)
    file.unlink()
    with pytest.raises(NotFoundError) as caught:
        milepost.open(copied)
    assert caught.value.where == str(file)


# -- metadata that were made to mislead ----------------------------------------------------------------------------------


def overlap(told: Metadata) -> None:
    told.state_dict_metadata["columns"].chunks[1].offsets = torch.Size([0, 0])
    told.storage_data[MetadataIndex("columns", [0, 0])] = told.storage_data[MetadataIndex("columns", [0, 3])]


def overlapping(told: Metadata) -> None:
    told.state_dict_metadata["rows"].chunks.append(ChunkStorageMetadata(torch.Size([1, 1]), torch.Size([1, 1])))
    told.storage_data[MetadataIndex("rows", [1, 1])] = told.storage_data[MetadataIndex("rows", [0, 0])]


def hole(told: Metadata) -> None:
    told.state_dict_metadata["rows"].chunks.pop()


def outside(told: Metadata) -> None:
    told.state_dict_metadata["rows"].size = torch.Size([6, 5])


def huge(told: Metadata) -> None:
    told.state_dict_metadata["rows"].size = torch.Size([2**60, 2**60])


def nowhere(told: Metadata) -> None:
    del told.storage_data[MetadataIndex("rows", [0, 0])]


def replace(**fields: Any) -> Callable[[Metadata], None]:
    def change(told: Metadata) -> None:
        index = MetadataIndex("rows", [0, 0])
        info = told.storage_data[index]
        told.storage_data[index] = _StorageInfo(
            **({"relative_path": info.relative_path, "offset": info.offset, "length": info.length} | fields)
        )

    return change


def another(told: Metadata) -> None:
    told.storage_data[MetadataIndex("rows", [0, 0])] = told.storage_data[MetadataIndex("few", [0])]


def same_path(told: Metadata) -> None:
    told.planner_data["rows"] = ("columns",)


def no_class(told: Metadata) -> None:
    told.state_dict_metadata["rows"] = {"size": 3}  # type: ignore[assignment]


def negative(told: Metadata) -> None:
    told.state_dict_metadata["rows"].chunks[0].sizes = torch.Size([-1, 5])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (overlap, FormatError, "'columns' is not all there: two boxes overlap"),
        (overlapping, FormatError, "'rows' is not all there: two boxes overlap"),
        (hole, FormatError, "'rows' is not all there: a part of it is in no box"),
        (outside, FormatError, "'rows' is not all there: a box lies outside of it"),
        (huge, FormatError, "'rows' is impossibly large"),
        (nowhere, FormatError, "a part of 'rows' is in no file"),
        (replace(relative_path="../outside.distcp"), UnsafeContentError, "has an empty part, . or .. in it"),
        (replace(relative_path="/etc/passwd"), UnsafeContentError, "is an absolute path"),
        (replace(relative_path="a\0b"), UnsafeContentError, "has a NUL"),
        (replace(relative_path="x" * 10_000), UnsafeContentError, "has 10000 characters"),
        (replace(relative_path="pipe"), FormatError, "not a regular file"),
        (replace(relative_path="link"), UnsafeContentError, "a link leads out"),
        (replace(offset=2**60), FormatError, "cut short"),
        (replace(offset=-1), FormatError, "cut short"),
        (replace(length=2**60), FormatError, "cut short"),
        (replace(offset="0"), FormatError, "described in a way that none is"),
        (replace(transform_descriptors=["zstd"]), FormatError, "packed by an extension"),
        (same_path, FormatError, "two entries are at 'columns'"),
        (no_class, FormatError, "not of the expected form"),
        (negative, FormatError, "impossible shape"),
    ],
)
def test_metadata_that_cannot_be(
    copied: Path, change: Callable[[Metadata], None], error: type[FormatError], says: str
) -> None:
    (copied.parent / "outside.distcp").write_bytes(b"x" * 9000)
    (copied / "link").symlink_to(copied.parent / "outside.distcp")
    os.mkfifo(copied / "pipe")
    told = pickle.loads((copied / ".metadata").read_bytes())
    change(told)
    (copied / ".metadata").write_bytes(pickle.dumps(told))
    with pytest.raises(error) as caught:
        milepost.open(copied)
    assert says in str(caught.value)
    assert str(copied) in str(caught.value.where)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"state_dict_metadata", b"state_dict_metadatb", "have no state_dict_metadata"),
        (b"Metadata", b"Metadatb", "not of the expected form"),
        (b"float32", b"floot32", "cannot be understood|not known"),
    ],
)
def test_metadata_with_names_of_nothing(copied: Path, old: bytes, new: bytes, says: str) -> None:
    data = (copied / ".metadata").read_bytes()
    assert old in data
    (copied / ".metadata").write_bytes(data.replace(old, new))
    with pytest.raises(FormatError, match=says):
        dict(milepost.open(copied))


def test_a_box_that_is_another_tensor(copied: Path) -> None:
    told = pickle.loads((copied / ".metadata").read_bytes())
    another(told)
    (copied / ".metadata").write_bytes(pickle.dumps(told))
    with pytest.raises(FormatError, match="something else than was said"):
        milepost.open(copied)["rows"]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_nothing_in_the_metadata_runs(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied)
    told = pickle.loads((copied / ".metadata").read_bytes())
    told.planner_data["rows"] = Evil()
    (copied / ".metadata").write_bytes(pickle.dumps(told))
    with pytest.raises(UnsafeContentError, match="mkdir"):
        milepost.open(copied)
    (copied / ".metadata").write_bytes(pickle.dumps({"no": "metadata"}))
    with pytest.raises(FormatError, match="not of the expected form"):
        milepost.open(copied)
    assert not Path("ran").exists()
