"""A manifest whose digest is right and whose contents are not: always one of milepost's own errors, before memory is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from milepost.core.manifest import Manifest, Shard, Tensor, decode, encode
from milepost.errors import MilepostError
from milepost.folder.checkpoint import Checkpoint
from milepost.ops.checking import verify_folder
from milepost.storage.local import LocalStorage

Edit = Callable[[Tensor, Shard], Tensor]


def tensor_with(**fields: Any) -> Edit:
    return lambda tensor, _: msgspec.structs.replace(tensor, **fields)


def shard_with(**fields: Any) -> Edit:
    return lambda tensor, shard: msgspec.structs.replace(tensor, shards=(msgspec.structs.replace(shard, **fields),))


def boxes(*boxes: tuple[tuple[int, ...], tuple[int, ...]]) -> Edit:
    return lambda tensor, shard: msgspec.structs.replace(
        tensor, shards=tuple(msgspec.structs.replace(shard, offset=offset, shape=shape) for offset, shape in boxes)
    )


EDITS: dict[str, Edit] = {
    "a negative size": tensor_with(shape=(-4, -8)),
    "one negative size": tensor_with(shape=(-1, 32)),
    "a size beyond all memory": tensor_with(shape=(1 << 40, 1 << 20)),
    "another size": tensor_with(shape=(4, 9)),
    "an unknown dtype": tensor_with(dtype="float7"),
    "a wider dtype": tensor_with(dtype="float64"),
    "no shards": tensor_with(shards=()),
    "tied to nothing": tensor_with(same_as="model/none", shards=()),
    "tied to itself": tensor_with(same_as="model/head", shards=()),
    "a file outside": shard_with(file="../../secret.safetensors"),
    "an absolute file": shard_with(file="/etc/passwd"),
    "a file that is not listed": shard_with(file="other.safetensors"),
    "an entry that is not there": shard_with(key="other"),
    "a box without offset": shard_with(shape=(4, 8)),
    "a box that sticks out": boxes(((1, 0), (4, 8))),
    "a box before the beginning": boxes(((-1, 0), (4, 8))),
    "a box of other rank": boxes(((0,), (32,))),
    "a box of negative size": boxes(((0, 0), (-4, -8))),
    "two boxes over each other": boxes(((0, 0), (4, 8)), ((0, 0), (4, 8))),
    "a whole beyond all memory in one box": lambda tensor, shard: msgspec.structs.replace(
        tensor,
        shape=(1 << 40, 8),
        shards=(msgspec.structs.replace(shard, offset=(0, 0), shape=(4, 8)),),
    ),
}


@pytest.fixture
def folder(start_job: Callable[..., Any], tmp_path: Path) -> Path:
    start_job().save(1, {"model": {"head": np.ones((4, 8), np.float32)}})
    return tmp_path / "run" / "step-00000001"


def rewrite(folder: Path, edit: Callable[[Manifest], Manifest]) -> None:
    manifest = folder / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_bytes(encode(edit(decode(manifest.read_bytes(), ""))))


@pytest.mark.parametrize("name", EDITS)
def test_reading_it_is_refused(folder: Path, name: str) -> None:
    def edit(manifest: Manifest) -> Manifest:
        tensor = manifest.tensors["model/head"]
        return msgspec.structs.replace(manifest, tensors={"model/head": EDITS[name](tensor, tensor.shards[0])})

    rewrite(folder, edit)
    with pytest.raises(MilepostError):
        _ = Checkpoint(LocalStorage(folder))["model/head"]
    verify_folder(LocalStorage(folder), "quick")
    assert verify_folder(LocalStorage(folder), "full").damaged


def test_boxes_that_fit_are_put_together(folder: Path) -> None:
    """So that the refusals above are not of boxes as such: here one box is the whole."""

    def edit(manifest: Manifest) -> Manifest:
        tensor = manifest.tensors["model/head"]
        whole = boxes(((0, 0), (4, 8)))(tensor, tensor.shards[0])
        return msgspec.structs.replace(manifest, tensors={"model/head": whole})

    rewrite(folder, edit)
    assert np.array_equal(Checkpoint(LocalStorage(folder))["model/head"], np.ones((4, 8)))
