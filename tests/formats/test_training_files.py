"""What Trainer, Accelerate, Lightning and DeepSpeed write, against what their libraries load."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import milepost
from milepost.core.foreign import Foreign
from milepost.errors import FormatError, MilepostError, NotFoundError, UnsafeContentError


@pytest.fixture(scope="module")
def made(make: Callable[[str], Path]) -> Path:
    return make("training_files")


def test_a_checkpoint_of_trainer(made: Path) -> None:
    folder = made / "trainer" / "checkpoint-2"
    source = milepost.open(folder)
    assert source.metadata["format"] == "a checkpoint of the Hugging Face Trainer"
    assert (source.metadata["step"], source.metadata["epoch"]) == (2, 0.5)
    assert set(source.metadata["written_by"]) == {"transformers"}
    weights = load_file(folder / "model.safetensors")
    assert {path for path in source if path.startswith("model/")} == {f"model/{name}" for name in weights}
    for name, tensor in weights.items():
        np.testing.assert_array_equal(source[f"model/{name}"], tensor)
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    for number, state in optimizer["state"].items():
        for name, tensor in state.items():
            np.testing.assert_array_equal(source[f"optimizer/state/{number}/{name}"], tensor)
    assert source.plain["optimizer/param_groups/0/lr"] == optimizer["param_groups"][0]["lr"]
    assert source.plain["scheduler/last_epoch"] == 2
    assert source.plain["trainer_state/global_step"] == 2
    assert [source.plain[f"trainer_state/log_history/{at}/step"] for at in (0, 1)] == [1, 2]
    assert source.plain["config/model_type"] == "bert"
    assert source.plain["training_args/~class"] == "transformers.training_args:TrainingArguments"
    assert source.plain["training_args/max_steps"] == 2
    rng = torch.load(folder / "rng_state.pth", weights_only=False)
    np.testing.assert_array_equal(source["rng_state/cpu"], rng["cpu"])
    np.testing.assert_array_equal(source["rng_state/numpy/1"], rng["numpy"][1])
    assert source.plain["rng_state/python/0"] == rng["python"][0]
    assert source.plain["rng_state/python/1/624"] == rng["python"][1][624]


def test_a_model_in_several_files(made: Path) -> None:
    source = milepost.open(made / "sharded")
    assert source.metadata["format"] == "a model of the Hugging Face libraries"
    weights = torch.load(made / "model.pt", weights_only=True)
    assert set(source) == {f"model/{name}" for name in weights}
    for name, tensor in weights.items():
        np.testing.assert_array_equal(source[f"model/{name}"], tensor)
    assert len(list((made / "sharded").glob("model-*.safetensors"))) > 1


def test_of_tied_weights_one_name_is_in_the_files(made: Path) -> None:
    index = next((made / "tied").glob("*.index.json"))
    weights = {
        name: tensor for file in (made / "tied").glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    source = milepost.open(index)
    assert set(source) == set(weights)
    for name, tensor in weights.items():
        np.testing.assert_array_equal(source[name], tensor)


def test_lightning(made: Path) -> None:
    source = milepost.open(made / "lightning.ckpt")
    loaded = torch.load(made / "lightning.ckpt", weights_only=False)
    for name, tensor in loaded["state_dict"].items():
        np.testing.assert_array_equal(source[f"state_dict/{name}"], tensor)
    moments = loaded["optimizer_states"][0]["state"][0]
    np.testing.assert_array_equal(source["optimizer_states/0/state/0/exp_avg"], moments["exp_avg"])
    assert (source.metadata["step"], source.metadata["epoch"]) == (4, 2)
    assert "Lightning" in source.metadata["written_by"]
    assert source.plain["hyper_parameters/width"] == 4


@pytest.mark.parametrize("name", ["accelerate", "accelerate-bin"])
def test_a_checkpoint_of_accelerate(made: Path, name: str) -> None:
    folder = made / name
    source = milepost.open(folder)
    assert source.metadata["format"] == "a checkpoint of Accelerate"
    assert {path for path in source if path.startswith("model/")} == {"model/weight", "model/bias"}
    optimizer = torch.load(folder / "optimizer.bin", weights_only=True)
    np.testing.assert_array_equal(source["optimizer/state/0/exp_avg"], optimizer["state"][0]["exp_avg"])
    states = torch.load(folder / "random_states_0.pkl", weights_only=False)
    np.testing.assert_array_equal(source["random_states_0/torch_manual_seed"], states["torch_manual_seed"])
    assert source.plain["random_states_0/random_state/1/3"] == states["random_state"][1][3]
    assert source.plain["scheduler/_step_count"] == 1
    assert "step" not in source.metadata, "Accelerate counts something else there"


def test_parts_that_are_folders(made: Path, make: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(made / "accelerate", tmp_path, dirs_exist_ok=True)
    shutil.copytree(make("distributed_folders") / "group", tmp_path / "pytorch_model_fsdp_0")
    shutil.copytree(made / "accelerate-bin", tmp_path / "earlier")  # nothing of this checkpoint
    (tmp_path / "deep").mkdir()
    torch.save({"module": {"w": torch.ones(2)}}, tmp_path / "deep" / "mp_rank_00_model_states.pt")
    (tmp_path / "loop").symlink_to(".")
    source = milepost.open(tmp_path)
    np.testing.assert_array_equal(source["pytorch_model_fsdp_0/rows"], np.arange(35.0).reshape(7, 5))
    assert source["deep/mp_rank_00_model_states/module/w"].tolist() == [1, 1]
    assert {path.split("/")[0] for path in source} == {
        "model", "optimizer", "random_states_0", "pytorch_model_fsdp_0", "deep",
    }  # fmt: skip


def test_a_folder_of_deepspeed(tmp_path: Path) -> None:
    torch.save({"module": {"w": torch.ones(2)}, "global_steps": 3}, tmp_path / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": {"x": torch.ones(1)}}, tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    source = milepost.open(tmp_path)
    assert source.metadata["format"] == "a checkpoint of DeepSpeed"
    assert source.plain["mp_rank_00_model_states/global_steps"] == 3
    assert "zero_pp_rank_0_mp_rank_00_optim_states/optimizer_state_dict/x" in source


def test_two_forms_of_the_weights_are_both_there(tmp_path: Path) -> None:
    for name in ("model.pt", "model.bin", "pytorch_model.bin"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    assert set(milepost.open(tmp_path)) == {"model/w", "model.pt/w", "pytorch_model/w"}


def test_files_that_are_not_read_are_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "accelerate", tmp_path, dirs_exist_ok=True)
    (tmp_path / "scaler.pt").write_bytes(b"something else")
    (tmp_path / "README.md").write_text("nothing of the state")
    source = milepost.open(tmp_path)
    assert source.plain["scaler"] == Foreign("file", {"name": "scaler.pt"})
    assert "README" not in source.plain


def test_damage_is_told_with_the_file(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "accelerate", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "optimizer.bin"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FormatError) as caught:
        milepost.open(tmp_path)
    assert caught.value.where == str(file)
    file.unlink()
    file.symlink_to("/etc/hostname")
    with pytest.raises(UnsafeContentError, match="a link leads out"):
        milepost.open(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch ran",)


def test_one_bad_file_makes_the_folder_bad(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "accelerate", tmp_path, dirs_exist_ok=True)
    (tmp_path / "scheduler.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafeContentError, match=r"posix\.system"):
        milepost.open(tmp_path)
    assert not Path("ran").exists()


def test_plain_values_that_cannot_be(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    for text in ("[]", '{"a": ' + "[" * 100_000, "\xff"):
        (tmp_path / "config.json").write_text(text, encoding="latin1")
        with pytest.raises(FormatError, match="not JSON of the expected form"):
            milepost.open(tmp_path)
    (tmp_path / "config.json").write_text('{"a":' * 200 + "1" + "}" * 200)
    with pytest.raises(MilepostError, match="nested more than"):
        milepost.open(tmp_path)
    (tmp_path / "config.json").write_text('{"loss": NaN}')  # as Python writes it, and a run that diverged has it
    assert np.isnan(milepost.open(tmp_path).plain["config/loss"])
    (tmp_path / "config.json").write_text(json.dumps({"a/b": [None, {"c": 1.5}], "": "\u202e"}))
    source = milepost.open(tmp_path)
    assert (source.plain["config/a~1b/0"], source.plain["config/a~1b/1/c"]) == (None, 1.5)
    assert source.plain["config/~"] == "\u202e"


def test_a_folder_of_other_things_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "epoch=1.ckpt")
    torch.save({}, tmp_path / "epoch=2.ckpt")
    with pytest.raises(NotFoundError, match="neither a run directory nor a checkpoint"):
        milepost.open(tmp_path)
