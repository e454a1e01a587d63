"""`StorageWriter` and `StorageReader` in one process: what goes in comes out, and what cannot is said by name."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys

import milepost
from milepost.errors import (
    DamagedError,
    MilepostWarning,
    NotStorableError,
    ScriptError,
    StorageError,
)
from milepost.torch import StorageReader, StorageWriter
from milepost.torch.adapter import DTYPES

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is")


class Colour(enum.Enum):
    RED = 1


def save(state: dict[str, Any], path: Path, **options: Any) -> Path:
    planner = options.pop("planner", None)
    dcp.save(state, storage_writer=StorageWriter(path, **options), planner=planner, no_dist=True)
    return path


def load(path: Path, state: dict[str, Any], **options: Any) -> dict[str, Any]:
    dcp.load(state, storage_reader=StorageReader(path), no_dist=True, **options)
    return state


def like(state: Any) -> Any:
    """A state dict of the same shape with other values."""
    if isinstance(state, dict):
        return {key: like(value) for key, value in state.items()}
    if isinstance(state, list):
        return [like(value) for value in state]
    return torch.zeros_like(state) if isinstance(state, torch.Tensor) else None


def cause(kind: type[Exception], call: Any) -> Any:
    """The error of `kind` that `call` fails with, from inside of DCP's own."""
    with pytest.raises(dcp.CheckpointException) as found:
        call()
    ((error, _),) = found.value.failures.values()
    assert type(error) is kind, error
    return error


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and left.shape == right.shape and bits(left) == bits(right)
    if isinstance(left, dict):
        return type(right) is type(left) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return type(right) is type(left) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


SHAPES = st.lists(st.integers(0, 4), max_size=3)
TENSORS = st.builds(
    lambda shape, kind, seed: (
        torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(torch.float32).to(kind)
    ),
    SHAPES, st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn]), st.integers(0, 9),
)  # fmt: skip
PLAIN = st.one_of(
    st.integers(), st.text(max_size=5), st.booleans(), st.floats(allow_nan=False), st.binary(max_size=5),
    st.tuples(st.integers(), st.text(max_size=3)), st.sets(st.integers(), max_size=3), st.lists(st.integers(), max_size=3),
    st.sampled_from([Colour.RED, 3j]),
)  # fmt: skip
KEYS = st.text("abc./~$0é", min_size=1, max_size=4)


@settings(max_examples=60)
@given(
    st.dictionaries(
        KEYS,
        st.recursive(TENSORS | PLAIN, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("state") / "step-7"
    try:
        flatten_state_dict(state)
    except ValueError:  # DCP does not tell {"a.b": 1} from {"a": {"b": 1}}
        reject()
    assert same(load(save(state, path), like(state)), state)


def test_every_dtype(tmp_path: Path) -> None:
    numbers = torch.arange(64, dtype=torch.uint8)
    state = {"model": {str(kind): numbers.view(kind).reshape(2, -1) for kind in DTYPES if kind is not torch.bool}}
    state["model"]["bool"] = numbers > 20
    assert same(load(save(state, tmp_path / "x"), like(state)), state)


def test_it_is_a_checkpoint_of_milepost(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    state = {
        "model": {"fc.weight": weight, "tied": weight},
        "loose": weight + 1,
        "step": 4,
        "plain": {"a": (1, weight + 2)},
    }
    save(state, tmp_path / "checkpoint-1200", metrics={"loss": 0.5})
    source = milepost.open(tmp_path / "checkpoint-1200")
    assert set(source) == {"model/fc.weight", "model/tied", "loose", "plain/a/1"}
    np.testing.assert_array_equal(source["plain/a/1"], (weight + 2).numpy())
    assert source.plain["plain/a/0"] == 1
    assert (source.metadata["step"], source.metadata["metrics"]) == (1200, {"loss": 0.5})
    model = milepost.open(tmp_path / "checkpoint-1200/model.safetensors")
    assert [*model] == ["fc.weight"], "tied tensors are stored once"


@pytest.mark.parametrize("options", [{"single_file_per_rank": False}, {"thread_count": 3}])
def test_several_files(tmp_path: Path, options: dict[str, Any]) -> None:
    state = {"model": {f"w{number}": torch.full((number + 1,), float(number)) for number in range(5)}}
    path = save(state, tmp_path / "x", **options)
    assert len(list(path.glob("*.safetensors"))) == options.get("thread_count", 5)
    assert same(load(path, like(state)), state)


def test_asynchronously(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        state = {"model": {"w": torch.ones(5)}}
        pending: Any = dcp.async_save(state, storage_writer=StorageWriter(tmp_path / "x"))
        state["model"]["w"].zero_()
        pending.result()
        assert milepost.open(tmp_path / "x")["model/w"].tolist() == [1] * 5
    finally:
        torch.distributed.destroy_process_group()


# -- other planners ---------------------------------------------------------------------------------------------------------


def test_without_flattening(tmp_path: Path) -> None:
    state = {"w": torch.ones(3), "nested": {"a": {"b": torch.zeros(2)}, "n": 3}}
    path = save(state, tmp_path / "x", planner=DefaultSavePlanner(flatten_state_dict=False))
    found = load(path, {"w": torch.zeros(3), "nested": None}, planner=DefaultLoadPlanner(False, False))
    assert same(found, state)
    assert set(milepost.open(path)) == {"w", "nested/a/b"}


def test_names_of_a_planner_of_ones_own(tmp_path: Path) -> None:
    class Renaming(DefaultSavePlanner):
        def set_up_planner(self, state_dict: Any, *args: Any, **kwargs: Any) -> None:
            super().set_up_planner({f"old.{name}": value for name, value in state_dict.items()}, *args, **kwargs)

    planner = Renaming(flatten_state_dict=False)
    path = save({"w": torch.ones(3), "step": 4}, tmp_path / "x", planner=planner)
    found = load(path, {"old.w": torch.zeros(3), "old.step": 0}, planner=DefaultLoadPlanner(False, False))
    assert same(found, {"old.w": torch.ones(3), "old.step": 4})


def test_a_planner_that_hands_out_pickles_only(tmp_path: Path) -> None:
    class Pickling(DefaultSavePlanner):
        lookup_object = None  # type: ignore[assignment]

        def resolve_data(self, write_item: Any) -> Any:
            raise AssertionError("nobody asks for the pickle")

    error = cause(ScriptError, lambda: save({"step": 4}, tmp_path / "x", planner=Pickling()))
    assert error.where == "step"
    assert "lookup_object" in str(error)
    assert not (tmp_path / "x").exists()


def test_nothing_need_be_there_before(tmp_path: Path) -> None:
    state = {"model": {"w": torch.ones(3), "list": [torch.zeros(2), 4]}, "plain": (1, 2)}
    path = save(state, tmp_path / "x")
    assert same(_load_state_dict_from_keys(storage_reader=StorageReader(path)), state)
    some = _load_state_dict_from_keys({"model.w"}, storage_reader=StorageReader(path))
    assert same(some, {"model": {"w": torch.ones(3)}})


def test_a_checkpoint_of_a_run_is_loaded(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    with milepost.Checkpointer(tmp_path / "run", model=model, table={"a": (1, 2)}, progress=False) as run:
        run.step(table={"a": (1, 2)})
    state = {"model": {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, "table": {"a": None}}
    found = load(Path(f"{tmp_path / 'run'}@latest"), state)
    assert same(found["model"], dict(model.state_dict()))
    assert found["table"] == {"a": (1, 2)}


# -- what cannot be ---------------------------------------------------------------------------------------------------------


def test_a_value_that_is_not_plain_is_named(tmp_path: Path) -> None:
    error = cause(NotStorableError, lambda: save({"app": {"model": torch.ones(2), "lock": object()}}, tmp_path / "x"))
    assert error.where == "app/lock"
    assert not (tmp_path / "x").exists()


def test_a_tensor_without_values_is_named(tmp_path: Path) -> None:
    error = cause(NotStorableError, lambda: save({"model": {"w": torch.ones(2, device="meta")}}, tmp_path / "x"))
    assert error.where == "model/w"


def test_a_byte_that_changed_is_noticed_before_anything_is_loaded(tmp_path: Path) -> None:
    path = save({"model": {"w": torch.ones(4)}}, tmp_path / "x")
    file = path / "model.safetensors"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    state = {"model": {"w": torch.zeros(4)}}
    assert "'w'" in str(cause(DamagedError, lambda: load(path, state)))
    assert state["model"]["w"].tolist() == [0] * 4


def test_what_there_is_not(tmp_path: Path) -> None:
    dcp.save({"a": torch.ones(1)}, checkpoint_id=tmp_path / "theirs", no_dist=True)
    for place, said in ("nothing", "there is nothing at this place"), ("theirs", "FileSystemReader"):
        # DCP puts what went wrong here into an error of its own.
        assert said in str(cause(AssertionError, lambda place=place: load(tmp_path / place, {"a": torch.ones(1)})))


def test_what_is_in_the_way(tmp_path: Path) -> None:
    state = {"a": torch.ones(1)}
    path = save(state, tmp_path / "x")
    cause(StorageError, lambda: save(state, path, overwrite=False))
    assert same(load(path, {"a": torch.zeros(1)}), state)
    save({"a": torch.zeros(1)}, path)
    assert milepost.open(path)["a"].tolist() == [0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("text")
    assert "thesis.tex" in str(cause(StorageError, lambda: save(state, tmp_path / "mine")))
    (tmp_path / "file").write_text("text")
    cause(StorageError, lambda: save(state, tmp_path / "file"))
    assert (tmp_path / "file").read_text() == (tmp_path / "mine/thesis.tex").read_text() == "text"
    save(state, tmp_path / "theirs" / "deep" / "x")


def test_arguments_without_effect_are_said(tmp_path: Path) -> None:
    with pytest.warns(MilepostWarning, match="sync_files"):
        StorageWriter(tmp_path / "x", sync_files=False)
    with pytest.raises(ScriptError):
        StorageWriter(tmp_path / "x", thread_count=0)


def test_a_save_that_failed_is_nothing_to_link_to(tmp_path: Path) -> None:
    """What was written before into the same name is there, and is not what the failed save wrote."""
    writer = StorageWriter(tmp_path / "x")
    big = torch.arange(100_000.0)
    dcp.save({"m": {"w": big}}, storage_writer=writer, no_dist=True)
    finish, writer.finish = writer.finish, lambda metadata, results: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(dcp.CheckpointException):
        dcp.save({"m": {"w": big + 1}}, storage_writer=writer, no_dist=True)
    assert milepost.open(tmp_path / "x")["m/w"][0] == 0
    writer.finish = finish  # type: ignore[method-assign]
    dcp.save({"m": {"w": big + 1}}, storage_writer=writer, no_dist=True)
    assert milepost.open(tmp_path / "x")["m/w"][0] == 1
    dcp.save({"m": {"w": big + 1}}, storage_writer=writer, checkpoint_id=tmp_path / "y", no_dist=True)
    assert (tmp_path / "y/m.safetensors").stat().st_nlink == 2
