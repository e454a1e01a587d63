"""Folders that the libraries themselves wrote, against what they hold; what does not fit together is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import milepost
from milepost.core.source import TensorSource
from milepost.errors import FormatError, MilepostError, NotFoundError, UnsafeContentError

Make = Callable[[str], Path]


def matches(source: TensorSource, folder: Path, name: str, prefix: str = "", tied: tuple[str, ...] = ()) -> None:
    """All that was expected is there, value for value; `tied` may be missing, as other names of what is there."""
    with np.load(folder / f"{name}.expected.npz") as expected:
        assert len(expected) > 1
        for key, value in expected.items():
            if key in tied and prefix + key not in source:
                continue
            np.testing.assert_array_equal(source[prefix + key].astype(np.float32), value)


def test_a_model_in_several_files(make: Make) -> None:
    folder = make("folders")
    assert len(list((folder / "hub").glob("*.safetensors"))) > 3
    source = milepost.open(folder / "hub")
    matches(source, folder, "hub", "model/", ("lm_head.weight",))
    assert source.plain["config/n_embd"] == 8
    assert "transformers" in source.metadata["written_by"]
    by_index = milepost.open(folder / "hub" / "model.safetensors.index.json")
    matches(by_index, folder, "hub", "", ("lm_head.weight",))


def test_a_model_in_several_files_of_torch(make: Make) -> None:
    folder = make("folders")
    matches(milepost.open(folder / "bins"), folder, "bins", "model/")


def test_a_folder_of_the_trainer(make: Make) -> None:
    folder = make("folders")
    source = milepost.open(folder / "trainer" / "checkpoint-2")
    assert source.metadata["format"] == "a checkpoint of the Hugging Face Trainer"
    assert source.metadata["step"] == 2
    matches(source, folder, "trainer", "model/", ("lm_head.weight",))
    assert "optimizer/state/0/exp_avg" in source
    assert "rng_state/cpu" in source
    assert source.plain["trainer_state/global_step"] == 2
    assert source.plain["training_args/~class"] == "transformers.training_args:TrainingArguments"
    assert source.plain["training_args/max_steps"] == 2


def test_a_folder_of_accelerate(make: Make) -> None:
    folder = make("folders")
    source = milepost.open(folder / "accelerate")
    assert source.metadata["format"] == "a checkpoint of Accelerate"
    matches(source, folder, "accelerate", "model/")
    assert {"optimizer/state/0/exp_avg", "random_states_0/torch_manual_seed"} <= set(source)
    assert source.plain["scheduler/last_epoch"] == 1 or "scheduler/last_epoch" in source.plain


def test_lightning(make: Make) -> None:
    folder = make("folders")
    source = milepost.open(folder / "lightning.ckpt")
    matches(source, folder, "lightning", "state_dict/")
    assert (source.metadata["step"], source.metadata["epoch"]) == (4, 2)
    assert "Lightning" in source.metadata["written_by"]
    assert source.plain["hyper_parameters/width"] == 4


def test_boxes_of_several_processes_are_joined(make: Make) -> None:
    folder = make("folders")
    assert len(list((folder / "distributed").glob("*.distcp"))) == 2
    source = milepost.open(folder / "distributed")
    assert source.metadata == {"format": "a folder of torch.distributed.checkpoint", "step": 7}
    matches(source, folder, "distributed")
    assert source.specs["model/columns"].dtype.name == "bfloat16"
    assert (source.plain["note/lr"], source.plain["note/names/1"]) == (0.5, "b")


@pytest.fixture
def distributed(make: Make, tmp_path: Path) -> Path:
    shutil.copytree(make("folders") / "distributed", tmp_path / "d")
    return tmp_path / "d"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"__1_0.distcp", b"../_0.distcp", "part"), (b"K\x05K\x03\x86", b"K\x06K\x03\x86", "not all there"),
        (b"state_dict_metadata", b"state_dict_metadatb", "have no state_dict_metadata"),
        (b"Metadata\n", b"Metadatb\n", "not of the expected form"),
        (b"float32\n", b"floot32\n", "cannot be understood|not known"),
    ],
)  # fmt: skip
def test_metadata_that_are_wrong(distributed: Path, old: bytes, new: bytes, words: str) -> None:
    data = (distributed / ".metadata").read_bytes()
    if b"\x8c" in data[:40]:  # protocol 4 has no line ends
        old, new = old.rstrip(b"\n"), new.rstrip(b"\n")
    assert old in data
    (distributed / ".metadata").write_bytes(data.replace(old, new))
    with pytest.raises(FormatError, match=words):
        dict(milepost.open(distributed))


def test_a_file_of_boxes_that_is_missing_or_cut_short(distributed: Path) -> None:
    other = distributed / "__1_0.distcp"
    os.truncate(other, other.stat().st_size // 2)
    with pytest.raises(FormatError):
        _ = [milepost.open(distributed)[path] for path in milepost.open(distributed)]
    other.unlink()
    with pytest.raises(NotFoundError):
        _ = [milepost.open(distributed)[path] for path in milepost.open(distributed)]


def index(folder: Path, weights: dict[str, str]) -> Path:
    torch.save({"a": torch.ones(2)}, folder / "one.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


@pytest.mark.parametrize(
    "name", ["../one.bin", "/etc/passwd", "a/../../b", "x\0y", "", "a" * 5000, "link.bin", "..", "a\\b"]
)
def test_names_in_an_index_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "f").mkdir()
    torch.save({"a": torch.ones(2)}, tmp_path / "one.bin")
    os.symlink("../one.bin", tmp_path / "f" / "link.bin")
    index(tmp_path / "f", {"a": name})
    with pytest.raises(UnsafeContentError):
        milepost.open(tmp_path / "f")
    with pytest.raises(UnsafeContentError):
        milepost.open(tmp_path / "f" / "pytorch_model.bin.index.json")


def test_indexes_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not in the file that the index names"):
        milepost.open(index(tmp_path, {"b": "one.bin"}))
    with pytest.raises(NotFoundError):
        milepost.open(index(tmp_path, {"a": "two.bin"}))
    with pytest.raises(FormatError, match="no format that is read"):
        milepost.open(index(tmp_path, {"a": "pytorch_model.bin.index.json"}))
    os.mkfifo(tmp_path / "pipe.bin")
    with pytest.raises(FormatError, match="not a regular file"):
        milepost.open(index(tmp_path, {"a": "pipe.bin"}))
    os.unlink(tmp_path / "pipe.bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text("{" * 100_000)
    with pytest.raises(FormatError, match="not JSON of the expected form"):
        milepost.open(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_a_folder_with_one_bad_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    index(tmp_path, {"a": "one.bin"})
    (tmp_path / "scheduler.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafeContentError, match=r"posix\.system"):
        milepost.open(tmp_path)
    assert not Path("ran").exists()


def test_json_nested_deep(tmp_path: Path) -> None:
    index(tmp_path, {"a": "one.bin"})
    (tmp_path / "config.json").write_text('{"a":' * 200 + "1" + "}" * 200)
    with pytest.raises(MilepostError, match="nested more than"):
        milepost.open(tmp_path)
