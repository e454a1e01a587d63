"""`StorageWriter`: torch.distributed.checkpoint saves into a checkpoint folder of milepost."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from torch.distributed.checkpoint import storage as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.futures import Future

from milepost.core import tree
from milepost.core.boxes import Box, flaw
from milepost.core.manifest import FORMAT, File, Manifest, Shard, Summary, Tensor, plain_metrics
from milepost.errors import MilepostWarning, SaveFailedError, ScriptError
from milepost.folder.alone import Alone
from milepost.folder.sharing import Base
from milepost.storage.base import storage_error
from milepost.storage.local import LocalStorage
from milepost.torch.distributed.share import Stored, Task, write_share
from milepost.torch.distributed.state_names import KEPT, Place, items_of, parts_of, path_of
from milepost.training import provenance

_STEP = re.compile(r"(?:[A-Za-z_]*(?:step|checkpoint|ckpt|iter)[A-Za-z]*[-_=]?)?0*(\d{1,18})")


class StorageWriter(dcp.StorageWriter):
    """Lets `torch.distributed.checkpoint.save` and `async_save` write a checkpoint of milepost, in place of `FileSystemWriter`.

    Each rank writes what DCP's planner gives to it into files of its own, ``model.rank-3.safetensors``; then rank 0 writes
    ``manifest.json`` and gives the folder its name in one step. Until then there is no checkpoint under that name, or the one that
    was there before. What a rank wrote with the same writer before, into a folder beside this one, and did not change since is
    shared by hard link. Values that are no tensors are stored as typed JSON; nothing is pickled.

    Args:
        path: the folder to make; the `checkpoint_id` of a save takes its place.
        single_file_per_rank: False for a file for each tensor.
        sync_files: files are always synced; the argument is there since `FileSystemWriter` has it.
        thread_count: so many files, written at a time, for each dict at the top of the state dict and each rank.
        per_thread_copy_ahead: 48 MiB are copied ahead of writing; the argument is there since `FileSystemWriter` has it.
        overwrite: False to fail where there is a checkpoint; else it is replaced once the new one is whole.
        step: what the checkpoint says of itself; by default what the folder's name does (``step-1200``, ``checkpoint_1200``,
            ``1200``), else 0.
        metrics: likewise.

    Raises:
        CheckpointException: of DCP, from a save, around

            * NotStorableError: a value that cannot be stored plainly; its path is named.
            * StorageError: there is something that is not to be replaced, or the disk refused.

    Example:
        >>> state = {"model": model.state_dict(), "step": 1200}
        >>> torch.distributed.checkpoint.save(state, storage_writer=milepost.torch.StorageWriter("ckpt/step-1200"))
        >>> milepost.open("ckpt/step-1200")["model/fc1.weight"].shape
        (512, 784)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        single_file_per_rank: bool = True,
        sync_files: bool = True,
        thread_count: int = 1,
        per_thread_copy_ahead: int = 0,
        overwrite: bool = True,
        *,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not sync_files:
            warnings.warn("sync_files=False has no effect: files are always synced", MilepostWarning, stacklevel=2)
        if thread_count < 1:
            raise ScriptError("thread_count= is less than 1", found=thread_count)
        self.single_file_per_rank, self.thread_count, self.overwrite = single_file_per_rank, thread_count, overwrite
        self.step, self.metrics = step, dict(metrics or {})
        self._before: _Before | None = None
        self.reset(path)

    @property
    def checkpoint_id(self) -> str:
        """The folder that is saved to."""
        return os.path.join(self._parent, self._name)

    # -- what DCP calls, in this order ------------------------------------------------------------------------------------------

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Another save begins, to another folder if one is named."""
        if checkpoint_id:
            self._parent, self._name = os.path.split(os.path.abspath(os.path.expanduser(checkpoint_id)))

    def storage_meta(self) -> StorageMeta:
        """What planners may want to know."""
        return StorageMeta(checkpoint_id=self.checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """See `torch.distributed.checkpoint.StorageWriter`."""
        if not kwargs.get("use_collectives", True):
            raise ScriptError(
                "without collectives nobody knows when all ranks have written",
                where=self.checkpoint_id,
                hint="leave use_collectives= out",
            )

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Nothing is to be changed in it."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On the coordinator: make the folder that all write into. That they get their plans only then is the barrier."""
        try:
            self._alone().begin(overwrite=self.overwrite)
        except OSError as error:
            raise storage_error(error, "make the folder of the checkpoint", self.checkpoint_id) from error
        return [replace(plan, storage_data=Task(rank, len(plans))) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[dcp.WriteResult]]:
        """On every rank: write the files."""
        alone = self._alone()
        try:
            stored = write_share(
                alone.storage,
                alone.draft,
                plan.storage_data,
                plan,
                planner,
                None if self._before is None else self._before.base(alone),
                files=self.thread_count if self.single_file_per_rank else 0,
                threads=self.thread_count,
            )
            self._before = _Before.of(stored, alone)
        except OSError as error:
            raise storage_error(error, "write the checkpoint", self.checkpoint_id) from error
        future: Future[list[dcp.WriteResult]] = Future()
        future.set_result(
            [dcp.WriteResult(item.index, one.nbytes, one) for item, one in zip(plan.items, stored, strict=True)]
        )
        return future

    def finish(self, metadata: Metadata, results: list[list[dcp.WriteResult]]) -> None:
        """On the coordinator: every rank has written; make it a checkpoint."""
        try:
            self._alone().commit(self._manifest(metadata, [one for rank in results for one in rank]))
        except OSError as error:
            raise storage_error(error, "finish the checkpoint", self.checkpoint_id) from error

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it can be the name of a folder."""
        return bool(checkpoint_id) and "://" not in os.fspath(checkpoint_id)

    # ---------------------------------------------------------------------------------------------------------------------------

    def _alone(self) -> Alone:
        return Alone(LocalStorage(self._parent), self._name)

    def _manifest(self, metadata: Metadata, results: Iterable[dcp.WriteResult]) -> Manifest:
        stored: list[Stored] = []
        structures: dict[str, Any] = {}
        for result in results:
            stored.append(result.storage_data)
            structures[result.index.fqn] = result.storage_data.structure
        tensors, files = _joined(stored)
        parts = {name: parts_of(name, metadata.planner_data) for name in metadata.state_dict_metadata}
        values: dict[str, Any] = {}
        for name, kind in metadata.state_dict_metadata.items():
            if name not in structures:
                raise SaveFailedError(f"no rank has written {name!r}", where=self.checkpoint_id)
            path = path_of(parts[name])
            is_tensor = isinstance(kind, TensorStorageMetadata)
            values[name] = Place(path) if is_tensor else tree.unflatten(structures[name], Place, path)
        items, kept = items_of(values, parts, tensors)
        written_by = provenance.written_by() | ({KEPT: kept} if kept else {})
        named = _STEP.fullmatch(self._name)
        step = self.step if self.step is not None else int(named[1]) if named else 0
        summary = Summary(
            format=FORMAT,
            run="",
            attempt=0,
            step=step,
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            metrics=plain_metrics(self.metrics),
            tensors=len(tensors),
            bytes=sum(file.size for file in files.values()),
            new_bytes=sum(one.new_bytes for one in stored),
        )
        return Manifest(summary, items, tensors, files, written_by)


def _joined(stored: Iterable[Stored]) -> tuple[dict[str, Tensor], dict[str, File]]:
    """The tensors and files of all ranks.

    Raises:
        SaveFailedError: a tensor is not all there, or not one tensor.
    """
    tensors: dict[str, Tensor] = {}
    boxes: dict[str, dict[Any, Shard]] = {}
    files: dict[str, File] = {}
    for one in stored:
        files |= one.files
        for path, tensor in one.tensors.items():
            known = tensors.setdefault(path, tensor)
            if (known.dtype, known.shape) != (tensor.dtype, tensor.shape):
                raise SaveFailedError(f"ranks disagree on what {path!r} is", expected=known, found=tensor)
            for shard in tensor.shards:
                boxes.setdefault(path, {}).setdefault((shard.offset, shard.shape), shard)
    for path, shards in boxes.items():
        problem = flaw([Box(offset, shape) for offset, shape in shards if offset is not None], tensors[path].shape)
        if problem is not None and (None, None) not in shards:
            raise SaveFailedError(f"the ranks together do not make up {path!r}: {problem}")
        whole = shards.get((None, None))
        tensors[path] = msgspec.structs.replace(tensors[path], shards=(whole,) if whole else tuple(shards.values()))
    return tensors, files


@dataclass(frozen=True)
class _Before:
    """What this rank wrote in the save before, and how to tell that it is still there: the save may have failed on another rank."""

    parent: str
    folder: str
    manifest: Manifest
    identities: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, stored: Iterable[Stored], alone: Alone) -> _Before:
        tensors: dict[str, Tensor] = {}
        files: dict[str, File] = {}
        for one in stored:
            files |= one.files
            for path, tensor in one.tensors.items():
                shards = tensors[path].shards if path in tensors else ()
                tensors[path] = msgspec.structs.replace(tensor, shards=shards + tensor.shards)
        return cls(
            alone.storage.root,
            alone.name,
            Manifest(Summary(FORMAT, "", 0, 0), {}, tensors, files),
            {name: alone.storage.stat(f"{alone.draft}/{name}").identity for name in files},
        )

    def base(self, alone: Alone) -> Base | None:
        """What the next save may link to."""
        if alone.storage.root != self.parent:
            return None
        there = {name: file for name, file in self.manifest.files.items() if self._is_there(alone, name)}
        return Base(self.folder, msgspec.structs.replace(self.manifest, files=there))

    def _is_there(self, alone: Alone, name: str) -> bool:
        try:
            return alone.storage.stat(f"{self.folder}/{name}").identity == self.identities[name]
        except OSError:
            return False
