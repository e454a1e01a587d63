"""Orbax' checkpoints, against what was saved; folders that lead elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
from mutants import survive

import milepost
from milepost.core.foreign import Foreign
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.orbax import Orbax
from milepost.ops.checking import verify_other


@pytest.fixture(scope="module")
def made(make: Callable[[str], Path]) -> Path:
    return make("orbax_files")


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """Of zarr files, to be damaged."""
    return Path(shutil.copytree(made / "files-zarr", tmp_path / "here" / "files"))


ARRAYS = {"params/dense~10/kernel": (3, 4), "opt/0": (2,), "opt/1/mu": (3,)}


@pytest.mark.parametrize("layout", ["ocdbt-zarr", "ocdbt-zarr3", "files-zarr", "files-zarr3", "v1"])
def test_every_layout(made: Path, layout: str) -> None:
    source = milepost.open(made / layout)
    assert {path: spec.shape for path, spec in source.specs.items()} == {**ARRAYS, "step": (), "rate": ()}
    np.testing.assert_array_equal(source["params/dense~10/kernel"], np.arange(12, dtype=np.float32).reshape(3, 4))
    assert source["opt/1/mu"].tolist() == [0, 1, 2]
    assert source["rate"] == 1e-3
    assert source.metadata["step"] == 7
    assert source.plain["note"] == "text"
    assert source.plain["none"] is None


def test_the_first_layout(made: Path, tmp_path: Path) -> None:
    source = milepost.open(made / "legacy")
    assert {path: spec.shape for path, spec in source.specs.items()} == {**ARRAYS, "scale": (3,)}
    np.testing.assert_array_equal(source["params/dense~10/kernel"], np.arange(12, dtype=np.float32).reshape(3, 4))
    assert source["scale"].tolist() == [0, 1, 2]
    assert source.plain == {"step": 7, "note": "text", "nothing": {}}
    assert source.metadata["step"] == 7
    shutil.copytree(made / "legacy", tmp_path / "managed" / "3" / "default")
    shutil.copytree(made / "legacy", tmp_path / "managed" / "5" / "default")
    managed = milepost.open(tmp_path / "managed")
    assert managed.metadata["checkpoints"] == ["3", "5"]
    assert dict(managed.specs) == dict(source.specs)
    shutil.rmtree(tmp_path / "managed" / "5" / "default" / "opt.0")
    lost = milepost.open(tmp_path / "managed").plain["opt/0"]
    assert isinstance(lost, Foreign)
    assert lost.why == "the array is not there"


def test_a_piece_that_is_missing_is_not_taken_for_zeros(copied: Path) -> None:
    pieces = [path for path in copied.rglob("*") if path.is_file() and path.name.replace(".", "").isdigit()]
    assert pieces
    for path in pieces:
        path.unlink()
    with pytest.raises(FormatError):
        milepost.open(copied)["params/dense~10/kernel"]


def test_every_type(made: Path) -> None:
    source = milepost.open(made / "kinds")
    expected = np.load(made / "expected.npz")
    assert set(source) == set(expected.files)
    for path in source:
        assert source.specs[path].dtype.name == path
        np.testing.assert_array_equal(source[path].view(np.uint8), expected[path])


def test_what_is_no_array(made: Path) -> None:
    source = milepost.open(made / "odd")
    assert {path: (spec.dtype.name, spec.shape) for path, spec in source.specs.items()} == {
        "key": ("uint32", (2,)), "keys": ("uint32", (2, 2)), "zero": ("float32", ()), "int": ("int64", ()),
        "truth": ("bool", ()), "a/b.c": ("int64", (3,)), "..": ("int64", (1,)), "x~1y": ("int64", (2,)),
    }  # fmt: skip
    expected = np.load(made / "expected-odd.npz")
    for path, name in {"key": "key", "keys": "keys", "a/b.c": "dots"}.items():
        np.testing.assert_array_equal(source[path], expected[name])
    assert source["zero"] == 2.5
    assert source["int"] == 5
    assert source["truth"]
    assert source.plain == {"text": "hello", "none": None, "dict": {}, "list": [], "tuple": ()}
    kind = "random keys of JAX (threefry2x32)"
    assert isinstance(source, Orbax)
    assert source.notes == {"key": kind, "keys": kind}


def test_checkpoints_without_a_tree_of_arrays(made: Path) -> None:
    assert milepost.open(made / "none").plain == {"a": None}
    assert milepost.open(made / "json").plain == {"metadata": {"a": [1, 2]}}
    assert milepost.open(made / "leaf")["~"].tolist() == [0, 1, 2]
    state = milepost.open(made / "manager-of-keys")
    assert state.metadata["step"] == 3
    assert state["rng/jax_random_key/checkpoint"].tolist() == np.load(made / "expected-odd.npz")["key"].tolist()


def test_a_save_that_was_cut_short(made: Path, tmp_path: Path) -> None:
    about = json.loads((made / "none" / "_CHECKPOINT_METADATA").read_text())
    (tmp_path / "_CHECKPOINT_METADATA").write_text(json.dumps(about | {"commit_timestamp_nsecs": None}))
    with pytest.raises(FormatError, match="never finished"):
        milepost.open(tmp_path)


def test_large_arrays(made: Path) -> None:
    found = milepost.open(made / "large")["w"]
    np.testing.assert_array_equal(found, np.arange(20_000_000, dtype=np.float32).reshape(5000, 4000))


def test_a_manager_of_steps(made: Path) -> None:
    source = milepost.open(made / "manager")
    assert source.metadata["checkpoints"] == ["2", "10"]
    assert source.metadata["step"] == 10
    assert set(source) == set(ARRAYS)
    assert source.plain["notes"] == {"a": [1, 2]}
    assert set(milepost.open(made / "manager" / "2")) == set(ARRAYS)


def test_several_items(made: Path) -> None:
    source = milepost.open(made / "v1-several")
    assert set(source) == {f"model/{path}" for path in ARRAYS} | {"data/x"}


def test_arrays_that_two_processes_saved(made: Path) -> None:
    assert (made / "two_processes" / "ocdbt.process_1").is_dir()
    source = milepost.open(made / "two_processes")
    assert source["split"].tolist() == np.arange(24.0).reshape(8, 3).tolist()
    assert source["same"].tolist() == [0, 1]


@pytest.mark.parametrize("what", ["link", "folder", "fifo"])
def test_what_is_no_plain_file_is_refused(copied: Path, what: str) -> None:
    outside = copied.parent / "outside"
    shutil.move(copied / "opt.0", outside)
    if what == "folder":
        (copied / "opt.0").symlink_to(outside)
    else:
        shutil.copytree(outside, copied / "opt.0")
        (copied / "opt.0" / "0").unlink()
        os.mkfifo(copied / "opt.0" / "0") if what == "fifo" else (copied / "opt.0" / "0").symlink_to(outside / "0")
    with pytest.raises(UnsafeContentError, match="no plain file"):
        milepost.open(copied)


def test_names_in_the_metadata_are_no_places(copied: Path) -> None:
    shutil.move(copied / "opt.0", copied.parent / "secret")
    tree = json.loads((copied / "_METADATA").read_text())
    entry = tree["tree_metadata"]["('opt', '0')"]
    entry["key_metadata"] = [{"key": "../secret", "key_type": 2}]
    (copied / "_METADATA").write_text(json.dumps(tree))
    with pytest.raises(FormatError, match="not there") as caught:
        milepost.open(copied)
    assert "../secret" in str(caught.value.expected)


@pytest.mark.parametrize("text", ["{", "[]", '{"tree_metadata": 5}', '{"tree_metadata": {"a": {}}}', "[" * 100_000, ""])
def test_metadata_that_cannot_be(copied: Path, text: str) -> None:
    (copied / "_METADATA").write_text(text)
    with pytest.raises(FormatError):
        milepost.open(copied)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1 << 40], "chunks": [1 << 20]},
        {"shape": [1 << 62]},
        {"shape": [2, 1 << 62, 1 << 62]},
        {"shape": [-1]},
        {"shape": [True]},
        {"shape": "2"},
        {"dtype": "|O"},
        {"dtype": "<f4,<f4"},
        {"dtype": ""},
        {"dtype": [["a", "<f4"]]},
        {"kvstore": "file:///etc/"},
        {"driver": "file"},
        {"chunks": [1 << 40]},
        {"chunks": [0]},
        {"fill_value": "x"},
        {"compressor": {"id": "unheard of"}},
        {"zarr_format": 9},
    ],
)
def test_arrays_that_cannot_be(copied: Path, change: dict[str, object]) -> None:
    described = json.loads((copied / "opt.0" / ".zarray").read_text())
    (copied / "opt.0" / ".zarray").write_text(json.dumps(described | change))
    with pytest.raises(FormatError):
        milepost.open(copied)["opt/0"]


def test_a_piece_that_unpacks_without_end(copied: Path) -> None:
    described = json.loads((copied / "opt.0" / ".zarray").read_text())
    (copied / "opt.0" / ".zarray").write_text(json.dumps(described | {"compressor": {"id": "zlib", "level": 9}}))
    (copied / "opt.0" / "0").write_bytes(zlib.compress(bytes(1 << 28)))
    source = milepost.open(copied)
    with pytest.raises(FormatError):
        source["opt/0"]
    assert source["opt/1/mu"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("prefix", ["../secret/", "secret/"])
def test_data_of_ocdbt_outside_the_folder_are_not_read(tmp_path: Path, prefix: str) -> None:
    # tensorstore would not write such a thing to files; in memory names mean nothing.
    context = ts.Context()
    prefixes = ("value_data_prefix", "btree_node_data_prefix", "version_tree_node_data_prefix")
    store = {
        "driver": "ocdbt", "base": {"driver": "memory"}, "path": "w/", "config": {"max_inline_value_bytes": 0},
        **dict.fromkeys(prefixes, prefix),
    }  # fmt: skip
    array = ts.open(
        {"driver": "zarr", "kvstore": store}, create=True, dtype=ts.float32, shape=[100], context=context
    ).result()
    array.write(np.ones(100, np.float32)).result()
    memory = ts.KvStore.open({"driver": "memory"}, context=context).result()
    for key in memory.list().result():
        file = tmp_path / "here" / key.decode()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(memory.read(key).result().value)
    if prefix == "secret/":
        assert milepost.open(tmp_path / "here")["w"].tolist() == [1] * 100
        return
    assert list((tmp_path / "secret").iterdir())
    with pytest.raises(FormatError) as caught:
        milepost.open(tmp_path / "here")["w"]
    assert "Invalid key" in str(caught.value.found)


def test_a_library_that_dies_is_an_error(copied: Path) -> None:
    source = milepost.open(copied)
    assert isinstance(source, Orbax)
    os.kill(source._child._process.pid, signal.SIGSEGV)
    with pytest.raises(FormatError, match="SIGSEGV"):
        source["opt/0"]
    assert source["opt/0"].tolist() == [0, 0]  # by a new one, of which the folder was asked again


@pytest.mark.parametrize(
    ("layout", "pattern"),
    [
        ("files-zarr", "opt.0/.zarray"),
        ("ocdbt-zarr", "manifest.ocdbt"),
        ("ocdbt-zarr", "d/*"),
        ("ocdbt-zarr", "_METADATA"),
        ("odd", "array_metadatas/*"),
        ("odd", "_CHECKPOINT_METADATA"),
        ("files-zarr3", "opt.0/zarr.json"),
        ("legacy", "checkpoint"),
    ],
)
def test_mutants(made: Path, tmp_path: Path, fuzz_processes: int, layout: str, pattern: str) -> None:
    place = Path(shutil.copytree(made / layout, tmp_path / "x"))
    target = sorted(place.glob(pattern))[0]
    survive(place, target, -(-fuzz_processes // 4))


def test_verify_reads_all_of_it_and_says_that_nothing_is_proven(copied: Path) -> None:
    found = verify_other(str(copied))
    assert not found.damaged
    assert found.unchecked == len(found.findings)
    piece = next(path for path in copied.rglob("*") if path.is_file() and path.name.replace(".", "").isdigit())
    piece.write_bytes(b"\0" + piece.read_bytes()[1:])
    assert len(verify_other(str(copied)).damaged) == 1
