"""`StorageReader`: torch.distributed.checkpoint loads from a checkpoint of milepost, whoever wrote it."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from typing import Any

import msgspec
import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint import storage as dcp
from torch.distributed.checkpoint._traverse import get_element
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from milepost.core import tree
from milepost.core.adapter import adapter_for
from milepost.core.dtypes import dtype
from milepost.core.manifest import Shard, Tensor
from milepost.errors import FormatError
from milepost.folder.alone import DCP
from milepost.folder.checkpoint import Checkpoint
from milepost.ops import refs
from milepost.torch.adapter import ADAPTER, BY_NAME
from milepost.torch.distributed.state_names import Named, Place, is_place, named, path_of


class StorageReader(dcp.StorageReader):
    """Lets `torch.distributed.checkpoint.load` read a checkpoint of milepost, in place of `FileSystemReader`.

    It need not have been written by `StorageWriter`: any checkpoint will do, and any number of ranks. Each rank reads the shards it
    needs, whole, and checks their digests before a byte of them goes into the state dict.

    Args:
        path: a checkpoint folder, or a REF as for `milepost.open`, ``"runs/mnist@best"``; the `checkpoint_id` of a load takes
            its place.

    Raises:
        CheckpointException: of DCP, from a load, around

            * NotFoundError: there is no such checkpoint.
            * DamagedError: its bytes are not what was saved.
            * FormatError: it is none of milepost's, or holds elements that PyTorch has no type for.

    Example:
        >>> state = {"model": model.state_dict()}
        >>> torch.distributed.checkpoint.load(state, storage_reader=milepost.torch.StorageReader("ckpt/step-1200"))
        >>> model.load_state_dict(state["model"])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.reset(path)

    @property
    def checkpoint_id(self) -> str:
        """What is loaded from."""
        return self._ref

    # -- what DCP calls, in this order ------------------------------------------------------------------------------------------

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Another load begins, from another checkpoint if one is named."""
        if checkpoint_id:
            self._ref = os.path.expanduser(os.fspath(checkpoint_id))
            self._opened: tuple[Checkpoint, Named] | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What is in the checkpoint, by the names that a planner gives to it."""
        checkpoint, state = self._open()
        return Metadata(
            {name: _described(checkpoint, value) for name, value in state.values.items()},
            planner_data=dict(state.parts),
            storage_meta=StorageMeta(checkpoint_id=self._ref),
        )

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing is to be set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Nothing is to be changed in it."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Nothing is to be changed in them."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """On every rank: read what it needs, each shard once."""
        checkpoint, state = self._open()
        by_shard: defaultdict[tuple[str, Shard], list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            if item.type is LoadItemType.BYTE_IO:
                buffer = io.BytesIO()
                torch.save(_value(checkpoint, state, item.storage_index.fqn), buffer)  # planners take nothing else
                buffer.seek(0)
                planner.load_bytes(item, buffer)
            else:
                path = state.values[item.storage_index.fqn].path
                by_shard[path, _shard(checkpoint.resolve(path), item)].append(item)
        for path, shard in sorted(by_shard, key=lambda key: (key[1].file, key[1].key)):
            tensor = _read(checkpoint, path, shard)
            for item in by_shard[path, shard]:
                part = narrow_tensor_by_index(tensor, item.storage_offsets, item.lengths)
                target = planner.resolve_tensor(item).detach()
                if target.shape != part.shape:
                    raise FormatError(
                        "the planner asks for another shape", where=path, expected=part.shape, found=target.shape
                    )
                target.copy_(part)
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it can name a checkpoint."""
        return bool(checkpoint_id)

    # ---------------------------------------------------------------------------------------------------------------------------

    def _open(self) -> tuple[Checkpoint, Named]:
        if self._opened is None:
            source = refs.open(self._ref)
            if not isinstance(source, Checkpoint):
                ours = "torch.distributed.checkpoint.FileSystemReader"
                raise FormatError(
                    "this is no checkpoint of milepost",
                    where=self._ref,
                    hint=f"read it with {ours}" if os.path.exists(os.path.join(self._ref, DCP)) else None,
                )
            self._opened = source, named(source.manifest, source.where)
        return self._opened


def _described(checkpoint: Checkpoint, value: Any) -> TensorStorageMetadata | BytesStorageMetadata:
    if not is_place(value):
        return BytesStorageMetadata()
    tensor = checkpoint.resolve(value.path)
    chunks = [
        ChunkStorageMetadata(
            torch.Size(shard.offset or (0,) * len(tensor.shape)),
            torch.Size(tensor.shape if shard.shape is None else shard.shape),
        )
        for shard in tensor.shards
    ]
    return TensorStorageMetadata(TensorProperties(_torch_dtype(tensor, value.path)), torch.Size(tensor.shape), chunks)


def _torch_dtype(tensor: Tensor, path: str) -> torch.dtype:
    found: torch.dtype | None = BY_NAME.get(tensor.dtype)
    if found is None:
        raise FormatError("PyTorch has no such type of elements", where=path, found=tensor.dtype)
    return found


def _shard(tensor: Tensor, item: ReadItem) -> Shard:
    """The shard that a planner means."""
    offset = item.storage_index.offset
    index = item.storage_index.index
    wanted = tuple(offset or (0,) * len(tensor.shape))
    in_doubt = tensor.shards if index is None or index >= len(tensor.shards) else (tensor.shards[index], *tensor.shards)
    for shard in in_doubt:
        if (shard.offset or (0,) * len(tensor.shape)) == wanted:
            return shard
    raise FormatError("the planner asks for a shard that is not there", where=item.storage_index.fqn, found=wanted)


def _read(checkpoint: Checkpoint, path: str, shard: Shard) -> torch.Tensor:
    tensor = checkpoint.resolve(path)
    data = checkpoint.read_shard(dtype(tensor.dtype), tensor, shard)
    return ADAPTER.view(data.data, msgspec.structs.replace(tensor, shape=shard.shape or tensor.shape))


def _value(checkpoint: Checkpoint, state: Named, name: str) -> Any:
    """A value that is no tensor, with the tensors that are in it."""
    value, parts = state.values[name], state.parts[name]
    inside = tree.flatten(value, is_place)[1].values()
    if not inside:
        return value
    wanted = {place.path for place in inside}

    def build(path: str) -> Any:
        if path not in wanted:
            return Place(path)
        tensor = checkpoint.resolve(path)
        return adapter_for(tensor.type).build(memoryview(bytearray(checkpoint[path].tobytes())), tensor)

    key = str(parts[0])
    return get_element({key: tree.unflatten(checkpoint.manifest.items[key], build, path_of((key,)))}, parts)
