"""What one rank writes of a state dict: its values, in files of its own, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import torch
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType

from milepost.core import tree
from milepost.core.adapter import LeafInfo, is_tensor
from milepost.core.boxes import Box
from milepost.core.layout import plan as lay_out
from milepost.core.manifest import File, Shard, Tensor
from milepost.errors import MilepostError, ScriptError
from milepost.folder import names
from milepost.folder.sharing import Base
from milepost.folder.snapshot import IO_BLOCK, Piece
from milepost.folder.writer import ItemWriter, Written
from milepost.pipeline.images import Leaf, Stream
from milepost.pipeline.stage import key_of
from milepost.storage.base import Storage
from milepost.storage.pages import Pages
from milepost.torch.adapter import ADAPTER
from milepost.torch.distributed.state_names import parts_of, path_of

LOOSE = "state_dict"
"""What the file of tensors is called that stand at the top of a state dict, in no dict of their own."""


class Task(NamedTuple):
    """What the coordinator tells a rank."""

    rank: int
    ranks: int


@dataclass(frozen=True)
class Stored:
    """What became of one value: the tensors of it (with the shards that this rank wrote) and their bytes, the files that they are
    in, the bytes of those of them that were written rather than linked and are told of here first, and the structure of a value
    that is no tensor."""

    tensors: dict[str, Tensor]
    nbytes: int
    files: dict[str, File]
    new_bytes: int
    structure: Any = None


class _Value(NamedTuple):
    """One value to write: the leaves of it, and what the manifest will say of the tensors they are, or are part of."""

    leaves: list[Leaf]
    tensors: dict[str, Tensor]
    structure: Any = None


class _File(NamedTuple):
    """One file: its name, the dict at the top of the state dict that its tensors are in, and whether it holds `whole` of that."""

    stem: str
    group: str
    leaves: list[Leaf]
    whole: bool


def write_share(
    storage: Storage,
    folder: str,
    task: Task,
    plan: SavePlan,
    planner: SavePlanner,
    base: Base | None,
    *,
    files: int,
    threads: int,
) -> list[Stored]:
    """Write into `folder` what `plan` gives to this rank, linking to what it wrote into `base`.

    Args:
        storage: holds the checkpoint.
        folder: of the draft.
        task: which rank this is.
        plan: as `StorageWriter.write_data` gets it.
        planner: likewise.
        base: an earlier checkpoint, as far as this rank wrote it.
        files: into how many files each part of the state dict goes; 0 for a file for each tensor.
        threads: how many files are written at a time.

    Returns:
        What became of each item of the plan, in order.

    Raises:
        NotStorableError: a value cannot be stored; its path is named.
        ScriptError: the planner does not hand values out.
        OSError: the storage refused.
    """
    values = [_value(item, plan, planner) for item in plan.items]
    todo = list(_files([leaf for value in values for leaf in value.leaves], task, files))
    with ThreadPoolExecutor(max(1, min(threads, len(todo))), "milepost-rank") as pool:
        done = list(pool.map(lambda one: _write(storage, folder, one, base), todo))
    shards = {piece: shard for written in done for piece, shard in written.shards.items()}
    wholes = {name: file for written in done for name, file in written.files.items()}
    new_bytes = {next(iter(written.files)): written.new_bytes for written in done}
    return [_stored(value, shards, wholes, new_bytes) for value in values]


def _value(item: WriteItem, plan: SavePlan, planner: SavePlanner) -> _Value:
    path = path_of(parts_of(item.index.fqn, plan.planner_data))
    if item.type is not WriteItemType.BYTE_IO:
        return _tensor(item, path, planner)
    lookup = getattr(planner, "lookup_object", None)
    if lookup is None:
        raise ScriptError(
            "this planner hands out pickled bytes only, which milepost does not store",
            where=path,
            expected="a planner with lookup_object(index), as DefaultSavePlanner has",
            found=f"{type(planner).__module__}.{type(planner).__qualname__}",
        )
    structure, tensors = tree.flatten(lookup(item.index), is_tensor, path)
    leaves = [_leaf(there, tensor) for there, tensor in tensors.items()]
    return _Value(leaves, {leaf.path: _record(leaf.info, leaf.info.shape) for leaf in leaves}, structure)


def _tensor(item: WriteItem, path: str, planner: SavePlanner) -> _Value:
    tensor = planner.resolve_data(item)
    if not isinstance(tensor, torch.Tensor) or item.tensor_data is None:
        raise ScriptError("the planner gives no tensor", where=path, found=type(tensor).__qualname__)
    leaf, whole = _leaf(path, tensor.detach()), tuple(item.tensor_data.size)
    chunk = item.tensor_data.chunk
    box = Box(tuple(chunk.offsets), tuple(chunk.sizes))
    if box.shape != whole:
        leaf.box = box
    return _Value([leaf], {path: _record(leaf.info, whole)})


def _leaf(path: str, tensor: Any) -> Leaf:
    try:
        return Leaf(path, tensor, ADAPTER, ADAPTER.describe(tensor))
    except MilepostError as error:
        error.where = error.where or path
        raise


def _record(info: LeafInfo, whole: tuple[int, ...]) -> Tensor:
    return Tensor(
        info.dtype.name,
        whole,
        strides=info.strides if info.shape == whole else None,
        type=info.type,
        device=info.device,
    )


def _files(leaves: Sequence[Leaf], task: Task, count: int) -> Iterator[_File]:
    """Which leaf goes into which file: for each dict at the top of the state dict one, or `count` of about one size."""
    groups: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        group, _, below = leaf.path.partition("/")
        groups.setdefault(group if below else "", []).append(leaf)
    stems = names.file_stems(filter(None, groups))
    stems[""] = names.file_stems([LOOSE], stems.values())[LOOSE]
    for group, held in groups.items():
        parts = _divided(held, count)
        whole = task.ranks == len(parts) == 1 and group != ""
        for number, part in enumerate(parts):
            yield _File(names.of_rank(stems[group], task.rank, task.ranks, number, len(parts)), group, part, whole)


def _divided(leaves: list[Leaf], count: int) -> list[list[Leaf]]:
    if count == 0:
        return [[leaf] for leaf in leaves]
    parts: list[list[Leaf]] = [[] for _ in range(min(count, len(leaves)))]
    sizes = [0] * len(parts)
    for leaf in sorted(leaves, key=lambda leaf: -leaf.info.nbytes):  # the largest first: then the parts differ least
        least = sizes.index(min(sizes))
        parts[least].append(leaf)
        sizes[least] += leaf.info.nbytes
    return parts


def _write(storage: Storage, folder: str, file: _File, base: Base | None) -> Written:
    """Write one file. Tensors that are the same memory are in it once."""
    first: dict[object, Leaf] = {}
    tied = {}
    for leaf in file.leaves:
        known = first.setdefault(leaf.info.memory or id(leaf), leaf)
        if known is not leaf:
            tied[_piece(leaf)] = _piece(known)
    by_key = {_key(file.group, leaf): leaf for leaf in first.values()}
    layout = lay_out(((key, leaf.info.dtype, leaf.info.shape) for key, leaf in by_key.items()), {"format": "pt"})
    layout = layout._replace(plain=layout.plain and file.whole)
    in_order = [by_key[entry.key] for entry in layout.entries]
    image = Stream(file.group, layout, in_order, Pages(Stream.BLOCKS * IO_BLOCK))
    writer = ItemWriter(storage)
    try:
        written = writer.write(folder, file.stem, image, base)
    finally:
        writer.close()
    same = {piece: _moved(written.shards[other], piece) for piece, other in tied.items()}
    return written._replace(shards=written.shards | same)


def _moved(shard: Shard, piece: Piece) -> Shard:
    """The bytes of `shard` as another piece."""
    offset, shape = piece.box or (None, None)
    return msgspec.structs.replace(shard, offset=offset, shape=shape)


def _piece(leaf: Leaf) -> Piece:
    return Piece(leaf.path, leaf.box)


def _key(group: str, leaf: Leaf) -> str:
    """What the entry is called in its file: as where the tensor is one of an item, with the box it is a part by."""
    key = key_of(group, leaf.path) if group else leaf.path
    if leaf.box is None:
        return key
    ranges = (f"{low}:{low + size}" for low, size in zip(*leaf.box, strict=True))
    return f"{key}[{','.join(ranges)}]"


def _stored(value: _Value, shards: dict[Piece, Shard], files: dict[str, File], new_bytes: dict[str, int]) -> Stored:
    own = {leaf.path: shards[_piece(leaf)] for leaf in value.leaves}
    tensors = {path: msgspec.structs.replace(tensor, shards=(own[path],)) for path, tensor in value.tensors.items()}
    named = {shard.file: files[shard.file] for shard in own.values()}
    nbytes = sum(leaf.info.nbytes for leaf in value.leaves)
    return Stored(tensors, nbytes, named, sum(new_bytes.pop(name, 0) for name in named), value.structure)
