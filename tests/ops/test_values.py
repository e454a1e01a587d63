from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from milepost.core import dtypes
from milepost.errors import NotFoundError, ScriptError, StorageError
from milepost.folder.checkpoint import Checkpoint
from milepost.ops import values
from milepost.ops.refs import open_checkpoint

SHORT = [name for name, kind in dtypes.TABLE.items() if kind.numpy is not None and kind.numpy.isbuiltin != 1]


@pytest.fixture
def checkpoint(start_job: Callable[..., Any]) -> Checkpoint:
    job = start_job()
    state = {"w": np.ones((2, 3)), "config": {"layers": [1, 2], "a/b": (3,)}, "empty": {}}
    job.save(1, {"model": state})
    return open_checkpoint(job.run.where)


def test_a_tensor_a_value_and_a_container(checkpoint: Checkpoint) -> None:
    tensor = values.read(checkpoint, ["model/w"])[0]
    assert (tensor.kind, tensor.array is not None and tensor.array.shape) == ("tensor", (2, 3))
    assert values.read(checkpoint, ["model/config/layers"])[0].encoded == [1, 2]
    assert values.read(checkpoint, ["model/config/a~1b"])[0].encoded == {"$tuple": [3]}
    assert values.read(checkpoint, ["model/empty"])[0].encoded == {}
    assert values.read(checkpoint, ["model"])[0].encoded["w"] == {"$tensor": "model/w"}


def test_what_is_not_there(checkpoint: Checkpoint) -> None:
    with pytest.raises(NotFoundError) as caught:
        values.read(checkpoint, ["modle/w"])
    assert caught.value.hint == "did you mean 'model/w'?"


@pytest.mark.parametrize("name", SHORT)
def test_every_value_of_a_type_that_npy_has_not_is_kept(name: str, tmp_path: Path) -> None:
    kind = dtypes.TABLE[name].numpy
    assert kind is not None
    every = np.arange(1 << (8 * kind.itemsize), dtype=f"u{kind.itemsize}")
    if name.startswith(("int", "uint")):
        every = np.arange(ml_dtypes.iinfo(kind).min, ml_dtypes.iinfo(kind).max + 1).astype(kind)
    elif name.startswith("float4"):
        every = every[:16].view(kind)
    elif name.startswith("float6"):
        every = every[:64].view(kind)
    else:
        every = every.view(kind)
    said = values.write_npy(every, str(tmp_path / "x.npy"))
    assert said is not None
    assert said.endswith(f".npy has no {kind.name}")
    found = np.load(tmp_path / "x.npy", allow_pickle=False)
    with np.errstate(invalid="ignore"):  # NaN, which is compared below
        back = found.astype(kind)
    same = (back.view(f"u{kind.itemsize}") == every.view(f"u{kind.itemsize}")) | np.isnan(found.astype(np.float32))
    assert same.all()
    assert np.array_equal(np.isnan(found.astype(np.float32)), np.isnan(every.astype(np.float32)))


@pytest.mark.parametrize("kind", ["float32", "int64", "bool", "complex64", "float16"])
def test_others_are_written_as_they_are(kind: str, tmp_path: Path) -> None:
    array = np.array([[0, 1], [1, 0]]).astype(kind)
    assert values.write_npy(array, str(tmp_path / "x.npy")) is None
    assert np.load(tmp_path / "x.npy").dtype == array.dtype


def test_no_file_is_overwritten_and_none_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.npy"
    file.write_text("mine")
    with pytest.raises(ScriptError):
        values.write_npy(np.ones(3), str(file))
    assert file.read_text() == "mine"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageError):
        values.write_npy(np.ones(3), str(tmp_path / "y.npy"))
    assert not (tmp_path / "y.npy").exists()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([1.5, np.nan, -np.inf], np.float32), [1.5, "nan", "-inf"]),
        (np.array([[True], [False]]), [[True], [False]]),
        (np.array(7, np.int64), 7),
        (np.zeros((0, 3)), []),
        (np.array([1 + 2j, np.inf], np.complex64), [[1.0, 2.0], ["inf", 0.0]]),
        (np.array([0.5, 2], ml_dtypes.bfloat16), [0.5, 2.0]),
        (np.array([-8, 7], ml_dtypes.int4), [-8, 7]),
        (np.array([2**64 - 1], np.uint64), [2**64 - 1]),
    ],
)
def test_json(array: Any, expected: Any) -> None:
    assert values.as_json(array, None) == expected
    assert json.loads(json.dumps(expected, allow_nan=False)) == expected


def test_large_arrays_are_left_out_of_json() -> None:
    assert values.as_json(np.ones(4), 3) is None
    assert values.as_json(np.ones(4), 4) == [1.0] * 4
