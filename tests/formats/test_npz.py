"""npz archives against numpy itself; arrays of Python objects are named, never unpickled."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import milepost
from milepost.core.foreign import Foreign
from milepost.errors import FormatError, ScriptError, UnsafeContentError
from milepost.formats import npz

ARRAYS = {
    "params/dense/kernel": np.arange(6.0).reshape(2, 3),
    "params/dense/bias": np.arange(3, dtype=">f4"),
    "step": np.int64(3),
    "fortran": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
    "flags": np.array([True, False]),
    "waves": np.array([1 + 2j], np.complex64),
    "none": np.zeros((0, 4), np.float16),
    "big": np.array([2**63], ">u8"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_array_is_what_numpy_loads(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "file", **ARRAYS)
    source = milepost.open(tmp_path / "file.npz")
    assert source.metadata["format"] == "an archive of numpy arrays"
    with np.load(tmp_path / "file.npz") as loaded:
        assert list(source) == list(loaded)
        for name, expected in loaded.items():
            assert source.specs[name].shape == expected.shape
            assert source[name].dtype == expected.dtype.newbyteorder("=")
            np.testing.assert_array_equal(source[name], expected)
            assert source[name].flags.c_contiguous
            assert not source[name].flags.writeable


def test_text_is_plain(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", names=np.array(["a", "bö"]), raw=np.array(b"xy"))
    source = milepost.open(tmp_path / "file.npz")
    assert source.plain == {"names": ["a", "bö"], "raw": b"xy"}
    assert not source.specs


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_objects_and_records_are_named_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("file.npz", objects=np.array([Evil()], object), records=np.zeros(2, [("a", "f4")]), good=np.arange(2))
    source = milepost.open("file.npz")
    assert list(source) == ["good"]
    objects = source.plain["objects"]
    assert isinstance(objects, Foreign)
    assert (objects.tag, objects.why) == ("numpy.ndarray", "an array of Python objects is a pickle")
    assert isinstance(source.plain["records"], Foreign)
    assert not Path("ran").exists()


def test_names_that_numpy_does_not_have(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", half=np.ones(3, ml_dtypes.bfloat16))
    source = milepost.open(tmp_path / "file.npz")
    assert source.specs["half"].shape == (3, 2)
    assert source["half"].view(ml_dtypes.bfloat16).tolist() == [[1.0], [1.0], [1.0]]


def test_a_zip_of_other_things_is_not_taken_for_arrays(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
        archive.writestr("a.npy", b"")
        archive.writestr("readme.txt", b"")
    with pytest.raises(FormatError, match="no checkpoint that milepost can read"):
        milepost.open(tmp_path / "file.npz")


def member(data: bytes, tmp_path: Path) -> str:
    with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
        archive.writestr("a.npy", data)
    return str(tmp_path / "file.npz")


def npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin1")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut short"),
        (pickle.dumps(Evil(), 2), "not a numpy array"),
        (b"\x93NUMPY\x04\x00\x00\x00", "newer version"),
        (b"\x93NUMPY\x03\x00\xff\xff\xff\xff", "impossibly long"),
        (npy("__import__('os').system('touch ran')"), "cannot be read"),
        (npy("[" * 5000), "cannot be read"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}"), "another size"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "impossible shape"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"), "impossible shape"),
        (npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(2**60, 2**60, 0)}}}"), "impossibly large"),
        (npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1,) * 65}}}"), "impossible shape"),
        (npy("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (0,)}"), "arrays of this type"),
        (npy("{'descr': '<U999999', 'fortran_order': False, 'shape': (1000000,)}"), "more text than is shown"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, data: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=words):
        milepost.open(member(data, tmp_path))
    assert not Path("ran").exists()


def test_an_object_array_by_itself_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "file.npy", np.array([Evil()], object))
    with pytest.raises(UnsafeContentError, match="array of Python objects is a pickle"):
        milepost.open(tmp_path / "file.npy")


def test_more_arrays_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MOST_ARRAYS", 7)
    np.savez(tmp_path / "file.npz", **ARRAYS)
    with pytest.raises(FormatError, match="more arrays than are read") as caught:
        milepost.open(tmp_path / "file.npz")
    assert "MILEPOST_BOUNDS=10" in str(caught.value.hint)
    monkeypatch.setenv("MILEPOST_BOUNDS", "10")
    assert len(milepost.open(tmp_path / "file.npz").specs) > 7
    monkeypatch.setenv("MILEPOST_BOUNDS", "many")
    with pytest.raises(ScriptError, match="MILEPOST_BOUNDS is no number"):
        milepost.open(tmp_path / "file.npz")
