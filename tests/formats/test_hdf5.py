"""Keras' files and others in HDF5, against what Keras and h5py hold; files that lead elsewhere."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from mutants import survive

import milepost
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.hdf5 import Hdf5


@pytest.fixture(scope="module")
def made(make: Callable[[str], Path]) -> Path:
    return make("keras_files")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("three.keras", "three"), ("three.weights.h5", "three"),
     ("parts.weights.json", "three"), ("three.h5", "three"), ("two.keras", "two"), ("two.h5", "two"),
     ("two.weights.hdf5", "two")],
)  # fmt: skip
def test_every_weight_and_the_state_of_the_optimizer(made: Path, name: str, expected: str) -> None:
    source = milepost.open(made / name)
    wanted = list(np.load(made / f"{expected}.npz").values())
    if name == "two.weights.hdf5":
        wanted = wanted[:8]
    found = list(source.values())
    # In another order, and some files have the learning rate in the configuration.
    left = [(array.shape, array.dtype, array.tobytes()) for array in found]
    for array in wanted:
        if array.shape or array.dtype.kind != "f":
            left.remove((array.shape, array.dtype, array.tobytes()))
    assert all(not shape for shape, _, _ in left)
    assert source.metadata["written_by"]["framework"] == "keras"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("three.keras", "three"), ("three.weights.h5", "three"), ("parts.weights.json", "three"), ("two.keras", "two")],
)
def test_layers_have_their_names_and_their_own_weights(made: Path, name: str, expected: str) -> None:
    source = milepost.open(made / name)
    named = {layer: path for path, layer in source.notes.items() if path.startswith("layers") and "/vars/" not in path}
    weights = np.load(made / f"{expected}-layers.npz")
    assert set(named) == {key.partition("/")[0] for key in weights}
    for key, value in weights.items():
        layer, _, number = key.partition("/")
        np.testing.assert_array_equal(source[f"{named[layer]}/vars/{number}"], value)


@pytest.mark.parametrize("name", ["three.h5", "two.h5"])
def test_legacy_layers_have_the_weights_that_the_file_lists(made: Path, name: str) -> None:
    source = milepost.open(made / name)
    weights = np.load(made / f"{name.removesuffix('.h5')}-layers.npz")
    layers = [layer for layer in source.plain["model_weights/layer_names"] if f"{layer}/0" in weights]
    assert layers == ["first", "batch_normalization", "last"]
    for layer in layers:
        for number, path in enumerate(source.plain[f"model_weights/{layer}/weight_names"]):
            np.testing.assert_array_equal(source[f"model_weights/{layer}/{path}"], weights[f"{layer}/{number}"])


@pytest.mark.parametrize("name", ["three.keras", "half.keras", "two.keras", "three.h5", "two.h5", "int8.keras"])
def test_every_path_holds_what_h5py_reads_there(made: Path, name: str) -> None:
    content = (made / name).read_bytes()
    if name.endswith(".keras"):
        content = zipfile.ZipFile(made / name).read("model.weights.h5")
    source, seen = milepost.open(made / name), set()

    def compare(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            seen.add(path)
            found, wanted = source[path], item[()]
            assert found.shape == wanted.shape
            assert found.tobytes() == wanted.tobytes()

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(compare)
    assert seen == set(source)


def test_models_in_models_and_quantized_ones(made: Path) -> None:
    source = milepost.open(made / "nested.keras")
    assert source.notes["layers/sequential"] == "inner"
    assert source.notes["layers/sequential/layers/dense_1"] == "b"
    paths = [f"layers/sequential/layers/dense{layer}/vars/{number}" for layer in ("", "_1") for number in (0, 1)]
    for path, wanted in zip(paths, np.load(made / "nested.npz").values(), strict=True):
        np.testing.assert_array_equal(source[path], wanted)
    assert milepost.open(made / "int8.keras")["layers/dense/vars/0"].dtype == np.int8
    eight = milepost.open(made / "float8.keras")
    for found, wanted in zip(eight.values(), np.load(made / "float8.npz").values(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_what_a_keras_file_tells(made: Path) -> None:
    source = milepost.open(made / "three.keras")
    assert isinstance(source, Hdf5)
    assert source.metadata["format"] == "a Keras model"
    assert source.metadata["step"] == 2
    assert source.notes["layers/dense"] == "first"
    assert source.specs["layers/dense/vars/0"].shape == (4, 3)
    assert source.plain["config"]["class_name"] == "Sequential"
    assert source.plain["metadata"]["keras_version"] == source.metadata["written_by"]["version"]


def test_what_a_legacy_file_tells(made: Path) -> None:
    source = milepost.open(made / "two.h5")
    assert source.metadata["format"] == "a Keras model in HDF5"
    assert source.specs["model_weights/first/first/kernel:0"].shape == (4, 3)
    assert source.plain["model_config"]["config"]["layers"][1]["config"]["units"] == 3
    assert "optimizer" in str(source.plain["training_config"])
    assert milepost.open(made / "two.weights.hdf5").metadata["format"] == "weights of Keras in HDF5"


def test_bfloat16(made: Path) -> None:
    source = milepost.open(made / "half.keras")
    found = source["layers/dense/vars/0"]
    assert found.dtype.name == "bfloat16"
    np.testing.assert_array_equal(found.astype(np.float32), np.load(made / "half.npz")["arr_0"])


def test_an_archive_that_was_packed_again(made: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(made / "three.keras") as old,
        zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    source, plainly = milepost.open(tmp_path / "m.keras"), milepost.open(made / "three.keras")
    assert list(source) == list(plainly)
    for path in source:
        np.testing.assert_array_equal(source[path], plainly[path])


def a_float(size: int, fields: tuple[int, int, int, int, int], bias: int, order: int = h5py.h5t.ORDER_LE) -> object:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(*fields)
    kind.set_size(size)
    kind.set_precision(size * 8)
    kind.set_ebias(bias)
    kind.set_order(order)
    return kind


def an_integer(size: int, precision: int, offset: int) -> object:
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(precision)
    kind.set_offset(offset)
    kind.set_size(size)
    return kind


def two_parts(names: bytes, at: tuple[int, int], size: int) -> object:
    kind = h5py.h5t.create(h5py.h5t.COMPOUND, size)
    for name, offset in zip(names, at, strict=True):
        kind.insert(bytes([name]), offset, h5py.h5t.IEEE_F32LE)
    return kind


def test_element_types_are_told_by_their_fields(tmp_path: Path) -> None:
    numbers = np.array([1, 2, -3])
    kinds = {
        "bfloat16": (a_float(2, (15, 7, 8, 0, 7), 127), np.float32),
        "bfloat16 big": (a_float(2, (15, 7, 8, 0, 7), 127, h5py.h5t.ORDER_BE), np.float32),
        "float8_e4m3fn": (a_float(1, (7, 3, 4, 0, 3), 7), np.float32),
        "float8_e5m2": (a_float(1, (7, 2, 5, 0, 2), 15), np.float32),
        "float16 big": (h5py.h5t.IEEE_F16BE, np.float32),
        "int32 in the middle": (an_integer(4, 16, 8), np.int32),
        "int32 of three bytes": (an_integer(3, 24, 0), np.int32),
        "complex64 with a gap": (two_parts(b"ri", (0, 8), 16), np.complex64),
        "uint16 bits": (h5py.h5t.STD_B16LE, None),
        "int16 enumeration": (h5py.h5t.py_create(h5py.enum_dtype({"A": 1}, ">i2"), logical=True), np.dtype(">i2")),
        "int32 references": (h5py.h5t.STD_REF_OBJ, None),
        "complex64 otherwise": (two_parts(b"ir", (0, 4), 8), None),
        "float32 strange": (a_float(4, (31, 20, 11, 0, 20), 1023), None),
    }
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for chunk in (None, (2,)):
            group = file.create_group("plain" if chunk is None else "chunked")
            for name, (kind, written) in kinds.items():
                how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                how.set_chunk(chunk) if chunk else None
                data = h5py.h5d.create(group.id, name.encode(), kind, h5py.h5s.create_simple((3,)), how)
                if written is not None:
                    data.write(
                        h5py.h5s.ALL, h5py.h5s.ALL, numbers.astype(written), None if "enum" not in name else kind
                    )
        file["opaque"] = np.array([b"ab", b"c"], "V3")
        file["float128"] = np.longdouble([1])
        file["words"] = np.array([b"a", b"bc"])
        file.create_dataset("lists", (2,), h5py.vlen_dtype("f4"))
    source = milepost.open(tmp_path / "x.h5")
    for group in ("plain", "chunked"):
        for name, (_, written) in kinds.items():
            if written is None and "bits" not in name:
                assert "not read" in source.plain[f"{group}/{name}"]
                continue
            found = source[f"{group}/{name}"]
            assert found.dtype.name == name.split()[0]
            assert found.tolist() == ([0, 0, 0] if written is None else numbers.tolist())
    assert source["opaque"].tolist() == [[97, 98, 0], [99, 0, 0]]
    assert source.plain["words"] == ["a", "bc"]
    assert "not read" in source.plain["float128"]
    assert "not read" in source.plain["lists"]


def test_other_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    big = rng.normal(size=(3000, 1000))
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as file:
        file["packed"] = big  # contiguous
        file.create_dataset("chunked", data=big, chunks=(70, 90), compression="gzip", shuffle=True)
        file.create_dataset("lzf", data=np.arange(10), compression="lzf", chunks=(3,))
        file["big"] = np.arange(5, dtype=">i4")
        file.create_dataset("bigchunks", data=np.arange(5, dtype=">c16"), chunks=(2,))
        file["truth"] = np.array([True, False])
        file["words"] = ["one", "zwö"]
        file["records"] = np.zeros(2, [("a", "i4"), ("b", "f4")])
        file["nothing"] = h5py.Empty("f4")
        file["zero"] = np.zeros((0, 3))
        file["scalar"] = 5
        file["group/~odd/name"] = np.float16(1.5)
        file["group"].attrs["note"] = "ü"
        file["alias"] = file["scalar"]
        file["soft"] = h5py.SoftLink("/group/~odd")
        file.create_dataset("unwritten", (4,), "f4", fillvalue=2.5)
    source = milepost.open(tmp_path / "x.h5")
    assert source.metadata["format"] == "an HDF5 file"
    np.testing.assert_array_equal(source["packed"], big)
    np.testing.assert_array_equal(source["chunked"], big)
    assert source["lzf"].tolist() == list(range(10))
    assert source["big"].tolist() == source["bigchunks"].real.tolist() == list(range(5))
    assert source["big"].dtype == np.int32
    assert source["truth"].dtype == bool
    assert source["zero"].shape == (0, 3)
    assert source["unwritten"].tolist() == [2.5] * 4
    assert source["group/~0odd/name"] == 1.5
    assert source.plain["words"] == ["one", "zwö"]
    assert source.plain["group/note"] == "ü"
    assert source.plain["soft"] == "a link to /group/~odd"
    assert source["alias"] == 5  # one place of two names, told under the first
    assert source.plain["scalar"] == "the same as alias"
    assert source.plain["records"].startswith("not read")
    assert source.plain["nothing"] == "nothing"


@pytest.mark.parametrize("name", ["../three.weights.h5", "/three.weights.h5"])
def test_weights_in_files_elsewhere_are_not_read(made: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "three.weights.h5").write_bytes((made / "three.weights.h5").read_bytes())
    (tmp_path / "here" / "x.weights.json").write_text(f'{{"weight_map": {{"/layers": ["{name}"]}}}}')
    with pytest.raises(UnsafeContentError):
        milepost.open(tmp_path / "here" / "x.weights.json")


def external_link(file: h5py.File, outside: str) -> None:
    file["x"] = h5py.ExternalLink(outside, "/secret")


def soft_link_out(file: h5py.File, outside: str) -> None:
    file["x"] = h5py.SoftLink("/not/here")


def external_storage(file: h5py.File, outside: str) -> None:
    file.create_dataset("x", (8,), "u1", external=[(outside, 0, 8)])


def virtual(file: h5py.File, outside: str) -> None:
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource(outside, "secret", (2,))
    file.create_virtual_dataset("x", layout)


def deep(file: h5py.File, outside: str) -> None:
    group = file
    for _ in range(200):
        group = group.create_group("g")


@pytest.mark.parametrize("harm", [external_link, soft_link_out, external_storage, virtual, deep])
def test_what_leads_elsewhere_is_refused(tmp_path: Path, harm: Callable[[h5py.File, str], None]) -> None:
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["secret"] = [1.0, 2.0]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["fine"] = [1.0]
        harm(file, str(outside))
    with pytest.raises(UnsafeContentError):
        milepost.open(tmp_path / "x.h5")


def test_groups_in_a_circle(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/w"] = [1.0]
        file["a/again"] = file["/"]
    source = milepost.open(tmp_path / "x.h5")
    assert list(source) == ["a/w"]
    assert source.plain == {"a/again": "the same as /"}


def test_numbers_that_are_said_to_be_many(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("unwritten", (1 << 40,), "f4", chunks=(1024,), fillvalue=1.0)
        file.create_dataset("some", (1 << 28,), "u1", chunks=(1 << 20,), compression="gzip")
        file.create_dataset("chunk", (1 << 28,), "u1", chunks=(1 << 28,), compression="gzip")
    source = milepost.open(tmp_path / "x.h5")
    for path in source:
        with pytest.raises(UnsafeContentError):
            source[path]


def test_without_h5py_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["w"] = [1.0]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FormatError, match=r"pip install 'milepost\[formats\]'"):
        milepost.open(tmp_path / "x.h5")


def test_variables_of_optimizers_have_names_where_they_are_certain(made: Path) -> None:
    told = json.loads((made / "variables.json").read_text())
    known = 0
    for name, variables in told.items():
        source = milepost.open(made / f"{name}.optimizer.keras")
        said = [source.notes.get(f"optimizer/vars/{number}") for number in range(len(variables))]
        if name in ("Nadam", "Hats"):  # which are numbered in a way of their own
            assert said == [None] * len(variables)
            continue
        for note, own in zip(said, variables, strict=True):
            slot, _, variable = str(note).partition(" of ")
            layer, _, weight = variable.partition("/")
            expected = {"iterations": "iteration", "learning rate": "learning_rate"}.get(slot, f"{weight}_{slot}")
            assert own.endswith(expected), (name, note, own)
            assert f"_{layer}_" in own or not layer
            known += 1
    assert known > 150
    source = milepost.open(made / "Adam.optimizer.keras")
    assert source.notes["layers/sequential/layers/lstm/cell/vars/1"] == "l/recurrent_kernel"
    assert source.notes["layers/batch_normalization/vars/0"] == "n/beta"


def test_weights_that_keras_pickled(make: Callable[[str], Path]) -> None:
    folder = make("keras_pickled")
    pickled, usual = milepost.open(folder / "pickled.keras"), milepost.open(folder / "usual.keras")
    assert set(pickled) == set(usual)
    assert all(np.array_equal(pickled[path], usual[path]) for path in usual)
    assert pickled.metadata["step"] == usual.metadata["step"] == 7
    assert pickled.notes["layers/dense/vars/0"] == "sequential/first/kernel"
    assert pickled.notes["optimizer/vars/3"] == usual.notes["optimizer/vars/3"] == "velocity of first/kernel"


def test_mutants(tmp_path: Path, fuzz_processes: int) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file["g/w"] = np.arange(6.0)
        file.create_dataset("c", data=np.arange(10), chunks=(4,), compression="gzip", fletcher32=True)
        file["words"] = ["a", "b"]
        file.attrs["model_config"] = '{"a": 1}'
    survive(tmp_path / "x.h5", tmp_path / "x.h5", fuzz_processes)
