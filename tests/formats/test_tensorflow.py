"""TensorFlow's checkpoints, against what TensorFlow itself reads from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import milepost
from milepost.errors import DamagedError, FormatError, NotFoundError, UnsafeContentError
from milepost.formats.tf_bundle import Bundle
from milepost.ops.sequence import members


@pytest.fixture(scope="module")
def made(make: Callable[[str], Path]) -> Path:
    return make("tensorflow_files")


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """The folder with names rather than objects, to be damaged."""
    return Path(shutil.copytree(made / "named", tmp_path / "named"))


KINDS = ["managed/ckpt-3", "keras2/weights", "saved/variables/variables", "slots/ck", "types/all",
         "named/model.ckpt-1200", "shards/whole"]  # fmt: skip


@pytest.mark.parametrize("prefix", KINDS)
def test_every_value_is_what_tensorflow_reads(made: Path, prefix: str) -> None:
    source = milepost.open(made / prefix)
    assert isinstance(source, Bundle)
    expected = np.load(made / (prefix.replace("/", "~") + ".npz"))
    by_key = {key.replace("/", "|"): path for path, key in source.stored_as.items() if path in source}
    assert by_key.keys() == set(expected.files)
    for key, path in by_key.items():
        found, wanted = source[path], expected[key]
        assert found.shape == source.specs[path].shape
        assert not found.flags.writeable
        if wanted.dtype != found.dtype:  # types of ml_dtypes were kept as bytes
            found = found.view(np.uint8)
        assert wanted.dtype == found.dtype
        assert wanted.tobytes() == found.tobytes(), path


def test_objects_have_readable_paths(made: Path) -> None:
    source = milepost.open(made / "managed/ckpt-3")
    assert isinstance(source, Bundle)
    # TensorFlow calls this weight optimizer/_trainable_variables/0.
    expected = np.load(made / "managed-weights.npz")
    np.testing.assert_array_equal(source["model/_functional/_operations/1/_kernel"], expected["kernel"])
    np.testing.assert_array_equal(source["optimizer/_momentums/0"], expected["momentum"])
    assert source.notes["model/_functional/_operations/1/_kernel"] == "sequential/first/kernel"
    assert source.metadata["step"] == 30
    assert source.metadata["written_by"]["framework"] == "tensorflow"


def test_slots_stand_below_their_optimizer(made: Path) -> None:
    source = milepost.open(made / "slots/ck")
    assert source.specs["optimizer/m/model/layer_with_weights-0/kernel"].shape == (4, 3)
    assert {path.split("/")[1] for path in source if path.startswith("optimizer/")} == {
        "m", "v", "iter", "beta_1", "beta_2", "decay", "learning_rate",
    }  # fmt: skip
    assert source.metadata["step"] == 2


def test_all_types(made: Path) -> None:
    source = milepost.open(made / "types/all")
    names = {path.rpartition("/")[2]: spec.dtype.name for path, spec in source.specs.items()}
    assert {name for name in names if names[name] == name} >= {
        "float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
        "uint64", "complex64", "complex128",
    }  # fmt: skip
    assert (names["int4"], names["truth"]) == ("int4", "bool")
    assert source["everything/int4"].astype(int).tolist() == list(range(-8, 8))
    assert {source.specs[f"everything/float8/{count}"].dtype.name for count in (0, 1)} == {
        "float8_e5m2", "float8_e4m3fn",
    }  # fmt: skip
    assert source["everything/empty"].shape == (0, 5)
    assert source["a~1b"] == 1.0  # a name with a slash in it, and one with a dot
    assert source["c.d"] == 2.0


def test_strings_are_plain_values(made: Path) -> None:
    plain = milepost.open(made / "types/all").plain
    assert plain["everything/text"] == [["one", "two", "three"], ["", "ü", "a" * 300]]
    assert plain["everything/words"] == "some words"
    assert plain["everything/raw"] == b"\xff\xfe\0"


def test_variables_in_slices_are_whole(made: Path) -> None:
    source = milepost.open(made / "named/model.ckpt-1200")
    assert {path: spec.shape for path, spec in source.specs.items()} == {
        "dense/bias": (3,), "dense/kernel": (4, 3), "embedding/table": (103, 7), "global_step": (), "wide": (2, 8192),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ckpt-3", "ckpt-3.index", "ckpt-3.data-00000-of-00001"])
def test_a_checkpoint_is_named_by_any_of_its_files(made: Path, name: str) -> None:
    assert milepost.open(made / "managed" / name).metadata["step"] == 30


def test_a_folder_is_a_sequence_of_which_the_latest_is_open(made: Path, tmp_path: Path) -> None:
    source = milepost.open(made / "managed")
    assert source.metadata["checkpoints"] == ["ckpt-2", "ckpt-3"]
    assert source.metadata["step"] == 30
    copy = Path(shutil.copytree(made / "managed", tmp_path / "copy"))
    # Whatever folder the writer saw: the names count, and this is the folder.
    (copy / "checkpoint").write_text('model_checkpoint_path: "/etc/../far/away/ckpt-2"\n')
    source = milepost.open(copy)
    assert (source.metadata["step"], source.metadata["checkpoints"]) == (20, ["ckpt-3", "ckpt-2"])
    (copy / "checkpoint").unlink()
    assert milepost.open(copy).metadata["step"] == 30
    for file in copy.iterdir():
        file.unlink()
    (copy / "checkpoint").write_text('model_checkpoint_path: "gone"\nall_model_checkpoint_paths: "gone"\n')
    with pytest.raises(NotFoundError, match="gone"):
        milepost.open(copy)


def test_the_list_of_a_folder_tells_times_and_what_is_missing(made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made / "managed", tmp_path / "copy"))
    (copy / "checkpoint").write_text(
        'model_checkpoint_path: "/far/away/ckpt-3"\n'
        'all_model_checkpoint_paths: "../ckpt-1"\nall_model_checkpoint_paths: "/far/away/ckpt-3"\n'
        'all_model_checkpoint_paths: "ckpt-2"\n'
        "all_model_checkpoint_timestamps: 1e9\nall_model_checkpoint_timestamps: 1000000300.25\n"
        "all_model_checkpoint_timestamps: 1000000200\nlast_preserved_timestamp: 5\n"
    )
    source = milepost.open(copy)
    assert source.metadata["checkpoints"] == ["ckpt-2", "ckpt-3"]
    assert source.metadata["missing"] == ["ckpt-1"]
    assert source.metadata["time"] == "2001-09-09T01:51:40+00:00"
    assert milepost.open(copy / "ckpt-2").metadata["time"] == "2001-09-09T01:50:00+00:00"
    assert [Path(one).name for one in members(str(copy))] == ["ckpt-1", "ckpt-2", "ckpt-3"]
    with (copy / "checkpoint").open("a") as more:  # one too many, and one that no calendar has: no time is known
        more.write("all_model_checkpoint_timestamps: 1e300\n")
    assert "time" not in milepost.open(copy).metadata


def test_escapes_in_the_list_of_checkpoints(made: Path, tmp_path: Path) -> None:
    for kind in ("index", "data-00000-of-00001"):
        shutil.copy(made / "managed" / f"ckpt-2.{kind}", tmp_path / f"ü'\"2.{kind}")
        shutil.copy(made / "managed" / f"ckpt-3.{kind}", tmp_path / f"z3.{kind}")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "\\303\\274\\\'\\"2"\n')
    assert milepost.open(tmp_path).metadata["step"] == 20


def test_saved_models_with_signatures(made: Path) -> None:
    source = milepost.open(made / "saved")
    assert source.where == str(made / "saved")
    assert source.plain == {
        "signatures/serving_default/inputs/input_1": "float32 (?, 4)",
        "signatures/serving_default/outputs/last": "float32 (?, 2)",
    }
    assert source.specs["layer_with_weights-0/kernel"].shape == (4, 3)
    assert source.metadata["tags"] == ["serve"]
    assert milepost.open(made / "saved" / "saved_model.pb").plain == source.plain
    functions = milepost.open(made / "functions")
    assert functions.plain == {
        "signatures/serve/inputs/s": "string of any shape",
        "signatures/serve/inputs/x": "float32 (?, 4)",
        "signatures/serve/outputs/double": "float32 (?, 4)",
        "signatures/serve/outputs/same": "string of any shape",
    }
    assert list(functions) == []


def test_the_old_format_is_refused_by_name(made: Path) -> None:
    for place in ("old/model.ckpt", "old"):
        with pytest.raises(FormatError, match="V1"):
            milepost.open(made / place)


def test_damage_is_found_by_the_checksum(copied: Path) -> None:
    data = copied / "model.ckpt-1200.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[-1] ^= 1
    data.write_bytes(raw)
    source = milepost.open(copied / "model.ckpt-1200")
    outcomes = set()
    for path in source:
        try:
            source[path]
        except DamagedError as error:
            outcomes.add((path, error.message))
    assert outcomes == {("wide", "a tensor differs from its checksum")}


def test_a_damaged_table_of_contents(copied: Path) -> None:
    index = copied / "model.ckpt-1200.index"
    raw = bytearray(index.read_bytes())
    raw[40] ^= 1
    index.write_bytes(raw)
    with pytest.raises(DamagedError, match="checksum"):
        milepost.open(copied)


def test_data_that_are_missing_or_short(copied: Path) -> None:
    data = copied / "model.ckpt-1200.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-4])
    source = milepost.open(copied / "model.ckpt-1200")
    with pytest.raises(FormatError, match="cut short"):
        source["wide"]
    data.rename(copied / "elsewhere")
    with pytest.raises(NotFoundError):
        milepost.open(copied / "model.ckpt-1200")


def test_data_that_lie_elsewhere_are_not_followed(copied: Path, tmp_path: Path) -> None:
    data = copied / "model.ckpt-1200.data-00000-of-00001"
    data.rename(tmp_path / "outside")
    data.symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeContentError, match="leads out"):
        milepost.open(copied / "model.ckpt-1200")
