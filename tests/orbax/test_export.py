"""Checkpoints and runs exported as Orbax checkpoints, and what Orbax loads from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors.numpy

import milepost
from milepost.cli.main import main
from milepost.errors import DamagedError, NotFoundError, NotStorableError, ScriptError, StorageError
from milepost.orbax.tree import tree_of
from milepost.orbax.writer import _compare

MAKERS = Path(__file__).parents[1] / "formats" / "makers"
KINDS = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128 bfloat16 int2 int4"
KINDS += " float4_e2m1fn float8_e3m4 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"


def train(place: Path, array: Callable[..., Any] = np.asarray, **others: Any) -> None:
    """Three checkpoints of a job with the state of Optax, in arrays of NumPy or JAX; `others` are values that do not change."""
    rng = np.random.default_rng(0)
    params = {
        "dense": {
            "kernel": array(rng.normal(size=(4, 3)).astype(ml_dtypes.bfloat16)),
            "bias": array(np.zeros(3, np.float32)),
        }
    }
    adam = optax.ScaleByAdamState(array(np.array(0, np.int32)), params, params)
    state = {"params": params, "opt_state": (adam, optax.EmptyState(), optax.EmptyState()), **others}
    keep = milepost.Keep(last=None, best="loss")
    with milepost.Checkpointer(place, **state, every=milepost.Every(steps=2), keep=keep, progress=False) as run:
        for step in run.steps(6):
            params = {"dense": {name: array((one * 2 + 1).astype(one.dtype)) for name, one in params["dense"].items()}}
            adam = optax.ScaleByAdamState(array(np.array(step, np.int32)), params, params)
            run.step(**state | {"params": params, "opt_state": (adam, *state["opt_state"][1:])}, loss=abs(step - 2.5))


OTHERS = {
    "kinds": {name: np.arange(6).reshape(2, 3).astype(bool).astype(getattr(ml_dtypes, name, name)) for name in KINDS.split()},
    "misc": {"rate": 1e-3, "on": True, "n": 2**40, "no": None, "text": "ü", "list": [np.ones(2), {}, (np.zeros((1, 2)), [])],
             "scalar": np.float32(2.5), "nan": float("nan"), "a/b": np.ones(1), 3: np.arange(3)},
}  # fmt: skip


@pytest.fixture(scope="module")
def orbax_managers(make: Callable[[str], Path]) -> Path:
    return make("orbax_managers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, orbax_managers: Path) -> Path:
    """Exports in every layout, and what Orbax loaded from them."""
    out = tmp_path_factory.mktemp("exported")
    train(out / "run", **OTHERS)
    train(out / "run-jax", jnp.asarray, key=jax.random.key(5))
    done = milepost.export(out / "run", out / "manager", format="orbax", whole_run=True)
    assert (done.checkpoints, done.left_out) == (3, ("run",))
    milepost.export(f"{out}/run@latest", out / "v1" / "6", format="orbax", layout="v1")
    optax_run = milepost.open(out / "run-jax")
    for place, layout in (("jax/6", None), ("jax-tree", None), ("items/6", "items")):
        leave_out = [] if layout is None else ["key"]  # which is no tree
        milepost.export(optax_run, out / place, format="orbax", layout=layout, leave_out=leave_out)
    milepost.export(orbax_managers / "single", out / "again", format="orbax", whole_run=True)
    safetensors.numpy.save_file({"fc.weight": np.arange(6.0).reshape(2, 3)}, out / "w.safetensors")
    milepost.export(out / "w.safetensors", out / "weights", format="orbax")
    script = [sys.executable, str(Path(__file__).parent / "orbax_loads.py"), str(out)]
    extra = {"PYTHONPATH": str(MAKERS), "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    ended = subprocess.run(script, capture_output=True, text=True, env={**os.environ, **extra})
    assert ended.returncode == 0, ended.stderr[-4000:]
    return out


def loaded(made: Path, name: str) -> dict[str, Any]:
    """What Orbax loaded, by path: type, shape and bits, or text or None."""
    bits = np.load(made / f"loaded-{name}.npz")
    leaves = json.loads((made / f"loaded-{name}.json").read_text())
    return {
        path: (*told, bits[path.replace("/", "|")].tobytes()) if isinstance(told, list) else told
        for path, told in leaves.items()
    }


def saved(source: milepost.TensorSource) -> dict[str, Any]:
    """The same of a checkpoint of milepost."""
    found: dict[str, Any] = {}
    for path in source:
        array = source[path]
        found[path] = (array.dtype.name, list(array.shape), array.reshape(-1).view(np.uint8).tobytes())
    for path, value in source.plain.items():
        if isinstance(value, bool | int | float | np.generic):
            array = np.asarray(value)
            found[path] = (array.dtype.name, [], array.reshape(-1).view(np.uint8).tobytes())
        elif value is None or isinstance(value, str) or value == ():
            found[path] = value or None
    return {path.replace("~1", "/"): one for path, one in found.items() if not path.startswith("run/")}


@pytest.mark.parametrize("name", ["manager", "step-v1", "v1"])
def test_orbax_loads_every_bit_without_a_target(made: Path, name: str) -> None:
    expected = saved(milepost.open(made / "run"))
    assert expected["misc/text"] == "ü"
    assert len(expected) > 40
    assert loaded(made, name) == expected


@pytest.mark.parametrize("name", ["manager-target", "items-target", "tree-target", "step-v1-target"])
def test_orbax_restores_into_the_classes_of_optax(made: Path, name: str) -> None:
    expected = saved(milepost.open(made / "run-jax"))
    if name == "items-target":
        del expected["key"]
    assert loaded(made, name) == {path: one for path, one in expected.items() if one is not None}


def test_steps_and_metrics_are_those_of_the_run(made: Path) -> None:
    told = json.loads((made / "told.json").read_text())
    assert told["steps"] == [2, 4, 6]
    assert told["latest"] == 6
    assert told["metrics"] == {"loss": 0.5}
    assert told["best"] == 6  # Orbax takes the largest unless it is told otherwise
    assert (told["about"]["step"], told["about"]["phase"]) == (6, "in-epoch")
    assert milepost.open(f"{made}/manager@best").metadata["step"] == 4
    assert milepost.open(f"{made}/run-jax@best").metadata["step"] == 4


def test_what_orbax_wrote_goes_through_unchanged(made: Path, orbax_managers: Path) -> None:
    bits = np.load(orbax_managers / "single.npz")
    leaves = json.loads((orbax_managers / "single.json").read_text())
    before = {
        path: (*told, bits[path.replace("/", "|")].tobytes()) if isinstance(told, list) else told
        for path, told in leaves.items()
    }
    again = {
        path: one for path, one in loaded(made, "again").items() if not path.startswith(("custom_metadata", "metrics"))
    }
    assert again == before


def test_other_formats_are_sources_too(made: Path) -> None:
    expected = np.arange(6.0).reshape(2, 3)
    assert loaded(made, "weights") == {"fc.weight": ("float64", [2, 3], expected.tobytes())}


@pytest.mark.parametrize(
    ("value", "where", "message"),
    [
        ({"x": np.zeros((0, 3))}, "s/x", "without elements"),
        ({"x": np.zeros(2, ml_dtypes.uint4)}, "x", "uint4"),
        ({"x": b"bytes"}, "s/x", "kind bytes"),
        ({"x": [1, {2, 3}]}, "s/x/1", "kind set"),
        ({"x": 2**64}, "s/x", "64 bits"),
        ({"a": {"b": np.ones(1)}, "a.b": np.zeros(1)}, "s/a.b", "over 's/a/b'"),
        ({(1, 2): np.ones(1)}, "s", "keys"),
        ({1: np.ones(1), "1": np.zeros(1)}, "s", "two keys"),
    ],
)
def test_what_orbax_would_lose_is_refused_by_path(tmp_path: Path, value: Any, where: str, message: str) -> None:
    with milepost.Checkpointer(tmp_path / "run", s=value, progress=False) as run:
        run.step(s=value)
    with pytest.raises(NotStorableError) as caught:
        milepost.export(tmp_path / "run", tmp_path / "out" / "8", format="orbax")
    assert message in f"{caught.value.message} {caught.value.found}"
    assert str(caught.value.where).endswith(where)
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_the_rest_can_be_exported(tmp_path: Path) -> None:
    state = {"good": np.ones(2), "empty": np.zeros(0), "list": [b"", np.arange(2)], "more": {"empty": np.zeros(0)}}
    with milepost.Checkpointer(tmp_path / "run", s=state, progress=False) as run:
        run.step(s=state)
    done = milepost.export(
        tmp_path / "run", tmp_path / "out", format="orbax", leave_out=["s/*empty", "s/list/0"], only="s"
    )
    assert done.left_out == ("s/empty", "s/list/0", "s/more/empty")
    found = milepost.open(tmp_path / "out")
    assert set(found) == {"good", "list/1"}
    assert found.plain["list/0"] is None  # its neighbour keeps its place


def test_calls_that_cannot_be(made: Path, tmp_path: Path) -> None:
    run = made / "run-jax"
    for call, kind, message in (
        ({"format": "orbit"}, ScriptError, "did you mean 'orbax'"),
        ({}, ScriptError, "which format"),
        ({"format": "orbax", "lay_out": "step"}, ScriptError, "no option 'lay_out'"),
        ({"format": "orbax", "layout": "flat"}, ScriptError, "no layout 'flat'"),
        ({"format": "orbax", "layout": "tree", "whole_run": True}, ScriptError, "one checkpoint, not a run"),
        ({"format": "orbax", "only": "param"}, NotFoundError, "nothing at 'param'"),
        ({"format": "orbax", "only": "opt_state", "layout": "items"}, ScriptError, "a sequence has none"),
    ):
        with pytest.raises(kind) as caught:
            milepost.export(run, tmp_path / "x", **call)  # type: ignore[arg-type]
        assert message in str(caught.value)
    with pytest.raises(ScriptError, match="one checkpoint of it"):
        milepost.export(f"{run}@best", tmp_path / "x", format="orbax", whole_run=True)
    with pytest.raises(StorageError, match="already"):
        milepost.export(run, made / "jax-tree", format="orbax")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        milepost.export(run, tmp_path / "file" / "x", format="orbax")
    assert os.listdir(tmp_path) == ["file"]


def test_other_bits_than_were_handed_over_are_noticed(made: Path) -> None:
    source = milepost.open(made / "run-jax")
    tree = tree_of(source, None, ())
    handed = {path: source[path] for path in tree.tensors} | tree.arrays
    _compare(str(made / "jax" / "6" / "default"), tree, handed)
    for path, other in (("params/dense/bias", np.zeros(3, np.float32)), ("opt_state/0/count", np.array(5, np.int64))):
        with pytest.raises(DamagedError) as caught:
            _compare(str(made / "jax" / "6" / "default"), tree, handed | {path: other})
        assert caught.value.found == path
    with pytest.raises(DamagedError, match="not what it was given"):
        _compare(str(made / "jax" / "6" / "default"), tree._replace(values={"opt_state/1": 5}), handed)


def test_a_source_that_is_damaged_leaves_nothing_behind(made: Path, tmp_path: Path) -> None:
    train(tmp_path / "run")
    file = tmp_path / "run" / "step-00000006" / "params.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedError):
        milepost.export(tmp_path / "run", tmp_path / "out" / "all", format="orbax", whole_run=True)
    assert os.listdir(tmp_path / "out") == []


def test_the_command(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = str(made / "run-jax"), str(tmp_path / "o")
    assert main(["export", f"{run}@best", f"{out}/4", "--format", "orbax"]) == 0
    assert capsys.readouterr().out == f"{out}/4: 8 tensors, 120 B, read back: equal\nleft out: run\n"
    assert main(["export", run, f"{out}/all", "--format", "orbax", "--all", "--leave-out", "opt_state", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["checkpoints"], told["tensors"], told["left_out"]) == (3, 9, ["run", "opt_state"])
    assert main(["export", run, f"{out}/4", "--format", "orbax"]) == 7
    assert "already" in capsys.readouterr().err
