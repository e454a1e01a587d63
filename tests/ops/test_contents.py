from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from milepost.core.manifest import Tensor, decode, encode
from milepost.errors import NotFoundError
from milepost.ops.contents import Entry, entries_of, files_of
from milepost.ops.outline import picked
from milepost.ops.refs import open_checkpoint


def contents(where: object, prefix: str = "") -> dict[str, Entry]:
    checkpoint = open_checkpoint(str(where))
    entries = entries_of(checkpoint, files_of(checkpoint))
    return {entry.path: entry for entry in picked(checkpoint, entries, [prefix] if prefix else [])}


@pytest.fixture
def saved(start_job: Callable[..., Any], tmp_path: Path) -> Path:
    """Two checkpoints: the model is shared, the optimizer is not."""
    job = start_job()
    for step in (1, 2):
        model = {"block": {"a.weight": np.ones((30, 30)), "b": np.ones(5, np.int8)}}
        job.save(step, {"model": model, "optimizer": {"momentum": np.full(300, float(step)), "lr": [0.1, None]}})
    return tmp_path / "run" / "step-00000002"


def test_containers_hold_the_bytes_of_all_below_them(saved: Path) -> None:
    found = contents(saved)
    assert {path: (entry.depth, entry.nbytes, entry.shared) for path, entry in found.items()} == {
        "model": (0, 7205, 7205),
        "model/block": (1, 7205, 7205),
        "model/block/a.weight": (2, 7200, 7200),
        "model/block/b": (2, 5, 5),
        "optimizer": (0, 2400, 0),
        "optimizer/momentum": (1, 2400, 0),
        "optimizer/lr": (1, 0, 0),
        "optimizer/lr/0": (2, 0, 0),
        "optimizer/lr/1": (2, 0, 0),
    }
    assert found["optimizer/lr/0"].text == "0.1"
    assert found["optimizer/lr"].size == 2


def test_only_what_is_below_a_path(saved: Path) -> None:
    found = contents(saved, "model/block")
    assert [(path, entry.depth) for path, entry in found.items()] == [
        ("model/block", 0), ("model/block/a.weight", 1), ("model/block/b", 1),
    ]  # fmt: skip
    assert list(contents(saved, "model/block/")) == list(found)
    assert [entry.depth for entry in contents(saved, "model/block/b").values()] == [0]
    with pytest.raises(NotFoundError):
        contents(saved, "model/blo")


def test_files_and_who_else_has_them(saved: Path) -> None:
    def names() -> dict[str, int]:
        return {file.name: file.names for file in files_of(open_checkpoint(str(saved)))}

    assert names() == {"model.safetensors": 2, "optimizer.safetensors": 1}
    (saved / "optimizer.safetensors").unlink()
    assert names() == {"model.safetensors": 2, "optimizer.safetensors": 0}


def test_tied_tensors_count_once_and_bad_ones_are_marked(saved: Path) -> None:
    manifest = saved / "manifest.json"
    read = decode(manifest.read_bytes(), "")
    momentum = read.tensors["optimizer/momentum"]
    (shard,) = momentum.shards
    tensors = read.tensors | {
        "model/block/b": Tensor("float64", (30, 30), same_as="model/block/a.weight"),
        "optimizer/momentum": msgspec.structs.replace(momentum, shards=(msgspec.structs.replace(shard, finite=False),)),
    }
    manifest.chmod(0o644)
    manifest.write_bytes(encode(msgspec.structs.replace(read, tensors=tensors)))
    found = contents(saved)
    assert found["model/block/b"].tied_to == "model/block/a.weight"
    assert found["model/block/b"].nbytes == 0
    assert found["model"].nbytes == 7200
    assert not found["optimizer/momentum"].finite
    assert found["model/block/a.weight"].finite
