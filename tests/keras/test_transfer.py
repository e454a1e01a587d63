"""Weights of every format of Keras 2 and 3 go into models of Keras 3, on three backends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import milepost
from milepost.errors import DamagedError, MismatchError, ScriptError

HERE = Path(__file__).parent
L = keras.layers


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    run("transfer_sources.py", str(folder))
    return folder


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_every_file_of_keras_gives_its_weights_to_the_same_model(sources: Path, backend: str) -> None:
    found = [json.loads(line) for line in run("transferring.py", backend, str(sources)).splitlines()]
    assert len(found) == 58
    assert {"training/cp-0008.ckpt", "nested.tf_keras.saved", "written.tf_keras.root"} <= {
        one["place"] for one in found
    }
    wrong = [one for one in found if not one["acceptable"] or not one["weights"] or one["difference"] > 1e-5]
    assert wrong == []


def dense(*sizes: int, names: tuple[str, ...] = ()) -> Any:
    given = names or (None,) * len(sizes)
    return keras.Sequential(
        [L.Input((sizes[0],)), *[L.Dense(n, name=one) for n, one in zip(sizes, given, strict=True)]]
    )


def test_what_several_parts_of_a_checkpoint_fit_is_not_guessed(tmp_path: Path) -> None:
    one, other = dense(3, 3), dense(3, 3)
    tf.train.Checkpoint(model=one, average=other).write(str(tmp_path / "both"))
    target = dense(3, 3)
    before = target.get_weights()
    with pytest.raises(ScriptError, match=r"fits the Sequential .* in 2 ways") as caught:
        milepost.transfer(tmp_path / "both", target)
    assert "'average/_functional/_operations/1/_kernel'" in str(caught.value)
    assert "'model/_functional/_operations/1/_kernel'" in str(caught.value)
    assert all(map(np.array_equal, before, target.get_weights()))
    report = milepost.transfer(tmp_path / "both", target, include="average")
    assert report.acceptable
    assert all(map(np.array_equal, other.get_weights(), target.get_weights()))


def test_layers_that_are_alike_are_told_apart_by_their_numbers_or_not_at_all(tmp_path: Path) -> None:
    arrays = {f"block.{n}/{part}": np.full(shape, n, "float32")
              for n in range(12) for part, shape in (("kernel", (3, 3)), ("bias", (3,)))}  # fmt: skip
    np.savez(tmp_path / "numbered.npz", **arrays)
    target = dense(*[3] * 12)
    report = milepost.transfer(tmp_path / "numbered.npz", target)
    assert report.matched_by == "shape"
    assert [layer.get_weights()[1][0] for layer in target.layers] == list(range(12))
    np.savez(tmp_path / "named.npz", **{name.replace("block.0", "stem"): one for name, one in arrays.items()})
    with pytest.raises(ScriptError, match="neither names nor numbers tell them apart") as caught:
        milepost.transfer(tmp_path / "named.npz", target)
    assert "stem" in str(caught.value)
    rename = {f"block.{n}": f"blocks.{n}" for n in range(1, 12)} | {"stem": "blocks.0"}
    assert milepost.transfer(tmp_path / "named.npz", target, rename=rename).acceptable
    assert [layer.get_weights()[1][0] for layer in target.layers] == list(range(12))


def test_numbers_that_a_process_gives_do_not_mislead(tmp_path: Path) -> None:
    """The target has a ``dense_1`` that is the first layer, the source one that is the second: the shapes are the same."""
    kernels = {f"net/dense_{n}/{part}": np.full(shape, n, "float32")
               for n in (8, 9, 10) for part, shape in (("kernel", (3, 3)), ("bias", (3,)))}  # fmt: skip
    np.savez(tmp_path / "a.npz", **kernels)
    target = keras.Sequential([L.Input((3,)), *[L.Dense(3, name=f"dense_{n}") for n in (9, 10, 11)]], name="net")
    report = milepost.transfer(tmp_path / "a.npz", target)
    assert report.matched_by == "name, numbers aside"
    assert [layer.get_weights()[1][0] for layer in target.layers] == [8, 9, 10]


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    source, target = dense(3, 4, names=("a", "b")), dense(3, 5, names=("a", "c"))
    source.save_weights(tmp_path / "w.weights.h5")
    np.savez(tmp_path / "w.npz", **{one.path.partition("/")[2]: one.numpy() for one in source.weights})
    before = target.get_weights()
    with pytest.raises(MismatchError, match=r"/c/kernel +saved nothing, here float32 \[3, 5\]") as caught:
        milepost.transfer(tmp_path / "w.npz", target)
    assert re.search(r"b/bias +saved float32 \[4\], here nothing", str(caught.value))
    assert all(map(np.array_equal, before, target.get_weights()))
    report = milepost.transfer(tmp_path / "w.npz", target, strict=False)
    assert report.applied
    assert not report.acceptable
    assert [len(report.loaded), len(report.missing), len(report.unexpected)] == [2, 2, 2]
    assert all(map(np.array_equal, [*source.layers[0].get_weights(), *before[2:]], target.get_weights()))


def test_damage_changes_nothing(tmp_path: Path) -> None:
    source, target = dense(3, 4), dense(3, 4)
    tf.train.Checkpoint(source).write(str(tmp_path / "w"))
    data = tmp_path / "w.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    offset = raw.index(source.layers[1].kernel.numpy().tobytes())
    raw[offset] ^= 1
    data.write_bytes(raw)
    before = target.get_weights()
    with pytest.raises(DamagedError):
        milepost.transfer(tmp_path / "w", target)
    assert all(map(np.array_equal, before, target.get_weights()))


def test_types_are_cast_and_said_so_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    half = keras.Sequential([L.Input((2,)), L.Dense(2, dtype="float16", name="d")])
    np.savez(tmp_path / "w.npz", **{"d/kernel": np.eye(2), "d/bias": np.array([0.5, -2])})
    report = milepost.transfer(tmp_path / "w.npz", half, dry_run=True)
    assert not report.applied
    assert not np.array_equal(half.get_weights()[0], np.eye(2))
    report = milepost.transfer(tmp_path / "w.npz", half)
    assert set(report.cast.values()) == {"float64 → float16"}
    assert np.array_equal(half.get_weights()[0], np.eye(2))
    np.savez(tmp_path / "w.npz", **{"d/kernel": np.eye(2) * 1e6, "d/bias": np.zeros(2)})
    with pytest.raises(MismatchError, match="does not fit into the type"):
        milepost.transfer(tmp_path / "w.npz", half)
    assert half.get_weights()[1].tolist() == [0.5, -2]


def test_a_model_without_variables_and_other_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=np.zeros(2))
    with pytest.raises(ScriptError, match="has no variables yet"):
        milepost.transfer(tmp_path / "w.npz", keras.Sequential([L.Dense(3)]))
    with pytest.raises(ScriptError, match="cannot be loaded into this"):
        milepost.transfer(tmp_path / "w.npz", {"a": 1})
    with pytest.raises(ScriptError, match="nothing in the source is called so"):
        milepost.transfer(tmp_path / "w.npz", dense(3, 3), rename={"b": "c"})
