"""Reading a committed checkpoint: on demand as a `TensorSource`, or whole and verified for a restore."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes, tree
from milepost.core.boxes import place_box
from milepost.core.digest import CHUNK, PREFIX, Checker, digest, file_digest
from milepost.core.layout import LARGEST_HEADER, Span, nbytes, overlaps, parse
from milepost.core.manifest import Manifest, Shard, Tensor, decode
from milepost.core.source import BLOCK as SOURCE_BLOCK
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import DamagedError, NotFoundError
from milepost.folder import names
from milepost.folder.snapshot import IO_BLOCK
from milepost.folder.worker import Worker
from milepost.storage.base import BLOCK, Storage, storage_error

READ_ROOM = 4 * IO_BLOCK
"""Bytes of memory in which `Checkpoint.read_file` looks at one block while the next are read."""
MOST_NAMED = 20
"""Tensors that an error about a file names; one that names thousands helps nobody."""


class Checkpoint(TensorSource):
    """One checkpoint folder. The manifest is read and checked at once, tensors when asked for.

    Args:
        storage: the checkpoint folder itself (so that a folder copied out of its run is one too).

    Raises:
        NotFoundError: no such folder, or no manifest in it.
        DamagedError: the manifest was changed or cut short.
        FormatError: written by a newer milepost.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        path = f"{storage.root}/{names.MANIFEST}"
        try:
            data = storage.read(names.MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                "this is not a checkpoint folder", where=storage.root, expected=names.MANIFEST
            ) from None
        except OSError as error:
            raise storage_error(error, "read the manifest", path) from error
        self.manifest: Manifest = decode(data, path)

    @property
    def where(self) -> str:
        return self.storage.root

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        specs = {}
        for path, tensor in self.manifest.tensors.items():
            kind = dtypes.dtype(tensor.dtype)
            specs[path] = TensorSpec(kind, tensor.shape, nbytes(kind, tensor.shape))
        return specs

    @cached_property
    def plain(self) -> Mapping[str, Any]:
        values: dict[str, Any] = {}
        for item, structure in self.manifest.items.items():
            values |= dict(tree.plain_values(structure, item))
        return values

    @property
    def metadata(self) -> Mapping[str, Any]:
        import msgspec

        return {**msgspec.to_builtins(self.manifest.summary), "written_by": dict(self.manifest.written_by)}

    def resolve(self, path: str) -> Tensor:
        """The record of tensor `path`, or of the one it is tied to."""
        tensor = self.manifest.tensors.get(path)
        if tensor is None:
            raise NotFoundError(
                f"there is no tensor {path!r}", where=self.where, hint="`milepost show` lists what is there"
            )
        if tensor.same_as is not None:
            tensor = self.manifest.tensors.get(tensor.same_as)
            if tensor is None or tensor.same_as is not None:
                raise DamagedError(f"tensor {path!r} is tied to one that is not there", where=self.where)
        return tensor

    def __getitem__(self, path: str) -> npt.NDArray[Any]:
        tensor = self.resolve(path)
        kind = dtypes.dtype(tensor.dtype)
        shard = tensor.shards[0] if tensor.shards else None
        divided = shard is None or shard.offset is not None
        out = self._assembled(kind, tensor) if divided else self.read_shard(kind, tensor, tensor.shards[0])
        out.flags.writeable = False
        shaped = out if kind.numpy is None else out.view(kind.numpy)
        return shaped.reshape(tensor.shape) if kind.numpy is not None else shaped

    def blocks(self, path: str) -> Iterator[npt.NDArray[Any]]:
        tensor = self.resolve(path)
        kind = dtypes.dtype(tensor.dtype)
        shard = tensor.shards[0] if tensor.shards else None
        size = nbytes(kind, tensor.shape)
        if shard is None or shard.offset is not None or size <= SOURCE_BLOCK:
            yield from super().blocks(path)
            return
        span = self._span(shard, size)
        where = f"{self.where}/{shard.file}"
        whole = Checker(dtypes.dtype("uint8"))
        for start in range(0, size, SOURCE_BLOCK):
            try:
                data = self.storage.read(shard.file, span.offset + start, min(SOURCE_BLOCK, size - start))
            except OSError as error:
                raise storage_error(error, "read the tensor", where) from error
            whole.update(memoryview(data))
            yield np.frombuffer(data, kind.numpy or np.uint8)
        if whole.digest() != shard.digest:
            raise changed([shard], where)

    def digest(self, path: str) -> str | None:
        tensor = self.resolve(path)
        if len(tensor.shards) != 1 or tensor.shards[0].offset is not None:
            return None  # the same tensor may be divided in another way
        return f"{tensor.dtype} {tensor.shape} {tensor.shards[0].digest}"

    def _assembled(self, kind: dtypes.DType, tensor: Tensor) -> npt.NDArray[np.uint8]:
        out = np.zeros(nbytes(kind, tensor.shape), np.uint8)
        for shard in tensor.shards:
            assert shard.offset is not None
            assert shard.shape is not None
            place_box(out, kind, tensor.shape, shard.offset, shard.shape, self.read_shard(kind, tensor, shard))
        return out

    def read_shard(self, kind: dtypes.DType, tensor: Tensor, shard: Shard) -> npt.NDArray[np.uint8]:
        """The bytes of one shard, checked, in memory that is the caller's."""
        where = f"{self.where}/{shard.file}"
        span = self._span(shard, nbytes(kind, shard.shape or tensor.shape))
        data = np.empty(span.nbytes, np.uint8)
        try:
            count = self.storage.read_into(shard.file, span.offset, data.data)
        except OSError as error:
            raise storage_error(error, "read the tensor", where) from error
        if count < span.nbytes or digest(data.data) != shard.digest:
            raise changed([shard], where)
        return data

    def _span(self, shard: Shard, size: int) -> Span:
        """Where the `size` bytes of `shard` are in its file."""
        span = self.spans(shard.file).get(shard.key)
        if span is None or span.nbytes != size:
            raise DamagedError(f"entry {shard.key!r} is missing or of another size", where=f"{self.where}/{shard.file}")
        return span

    def spans(self, file: str) -> Mapping[str, Span]:
        """Where each entry of `file` is, from the file's own header."""
        if file not in self._headers:
            self._headers[file] = self._read_header(file)[1]
        return self._headers[file]

    @cached_property
    def _headers(self) -> dict[str, Mapping[str, Span]]:
        return {}

    def _read_header(self, file: str) -> tuple[bytes, Mapping[str, Span]]:
        where = f"{self.where}/{file}"
        recorded = self.manifest.files.get(file)
        if recorded is None:
            raise DamagedError("the manifest does not list this file", where=where)
        try:
            found = self.storage.stat(file)
            size = found.size
            if found.kind != "file":
                # A link could lead anywhere: what a checkpoint holds is in its folder.
                raise DamagedError("this is not a plain file", where=where, found=f"a {found.kind}")
            if size != recorded.size:
                raise DamagedError(
                    "the file is cut short or was changed",
                    where=where,
                    expected=f"{recorded.size} bytes",
                    found=f"{size} bytes",
                )
            head = self.storage.read(file, 0, BLOCK)
            length = 8 + min(int.from_bytes(head[:8], "little"), LARGEST_HEADER)
            if length > len(head):
                head = self.storage.read(file, 0, length)
        except FileNotFoundError:
            raise DamagedError("a file of the checkpoint is missing", where=where) from None
        except OSError as error:
            raise storage_error(error, "read the file", where) from error
        entries, _ = parse(head, size, where)
        return head[:length], {key: Span(first, length) for key, (_, _, first, length) in entries.items()}

    def files_of(self, items: set[str] | None = None) -> dict[str, dict[str, str]]:
        """File -> entry key -> path of the tensors of `items` (all if None), in the order of the manifest."""
        found: dict[str, dict[str, str]] = {}
        for path, tensor in self.manifest.tensors.items():
            if items is None or item_of(path) in items:
                for shard in tensor.shards:
                    found.setdefault(shard.file, {})[shard.key] = path
        return found

    def read_file(
        self,
        file: str,
        room: memoryview,
        place: Callable[[str, Span], memoryview | None] | None = None,
        on_block: Callable[[int, memoryview], None] | None = None,
    ) -> None:
        """Read all of `file` and check its header and every entry against the manifest.

        Args:
            file: the file's name.
            room: page-aligned memory of `READ_ROOM` bytes, however large the file.
            place: says where the bytes of an entry (its key, where it is in the file) go; None for nowhere. Not to be used before
                this returns.
            on_block: handed the offset and the bytes of each block, which are not checked yet.

        Raises:
            DamagedError: anything differs.
            StorageError: the storage refused.
        """
        where = f"{self.where}/{file}"
        header, spans = self._read_header(file)
        shards = {shard.key: (tensor, shard) for tensor, shard in self._shards_in(file)}
        for key, (tensor, shard) in shards.items():
            expected = nbytes(dtypes.dtype(tensor.dtype), shard.shape or tensor.shape)
            if key not in spans or spans[key].nbytes != expected:
                raise DamagedError(f"entry {key!r} is missing or of another size", where=where)
        in_order = sorted(spans, key=lambda key: spans[key])
        ordered = [spans[key] for key in in_order]
        checkers = [Checker(dtypes.dtype("uint8")) for _ in in_order]
        places = [place(key, spans[key]) if place is not None else None for key in in_order]
        first = 0
        for start, block in _read_ahead(self.storage, file, self.manifest.files[file].size, room, where):
            found, first = overlaps(ordered, first, start, start + len(block))
            for index, low, high in found:
                out, begin = places[index], ordered[index].offset
                for at in range(low, high, CHUNK):  # copied while it is in the cache
                    piece = block[at - start : min(at + CHUNK, high) - start]
                    checkers[index].update(piece)
                    if out is not None:
                        out[at - begin : at - begin + len(piece)] = piece
            if on_block is not None:
                on_block(start, block)
        digests = {key: checker.digest() for key, checker in zip(in_order, checkers, strict=True)}
        if wrong := [shard for key, (_, shard) in shards.items() if digests[key] != shard.digest]:
            raise changed(wrong, where)
        if file_digest(header, list(digests.values())) != self.manifest.files[file].digest:
            raise DamagedError("the header, or an entry that is no longer used, was changed", where=where)

    def _shards_in(self, file: str) -> Iterator[tuple[Tensor, Shard]]:
        for tensor in self.manifest.tensors.values():
            for shard in tensor.shards:
                if shard.file == file:
                    yield tensor, shard


def item_of(path: str) -> str:
    """The item a path belongs to (escaped as in the path)."""
    return path.partition("/")[0]


def changed(shards: Sequence[Shard], where: str) -> DamagedError:
    """The error for bytes that differ from their digests."""
    named = ", ".join(repr(shard.key) for shard in shards[:MOST_NAMED])
    more = f" and {len(shards) - MOST_NAMED} more" if len(shards) > MOST_NAMED else ""
    return DamagedError(
        f"the bytes of {named}{more} are not what was saved",
        where=where,
        expected=shards[0].digest.removeprefix(PREFIX) if len(shards) == 1 else None,
        hint="use another checkpoint; `milepost verify` names all that is damaged",
    )


def _read_ahead(
    storage: Storage, file: str, size: int, room: memoryview, where: str
) -> Iterator[tuple[int, memoryview]]:
    """Read a file of `size` bytes, as far ahead of the consumer as there is room; yields each block's offset and bytes."""
    turns = len(room) // IO_BLOCK

    def place(start: int) -> memoryview:
        base = start // IO_BLOCK % turns * IO_BLOCK
        return room[base : base + IO_BLOCK]

    with Worker("milepost-read") as worker:
        ahead = deque(
            worker.submit(storage.read_into, file, start, place(start))
            for start in range(0, size, IO_BLOCK)[: turns - 1]
        )
        for start in range(0, size, IO_BLOCK):
            try:
                got = ahead.popleft().result()
            except OSError as error:
                raise storage_error(error, "read the file", where) from error
            stop = min(start + IO_BLOCK, size)
            if got < stop - start:
                raise DamagedError(
                    "the file is cut short", where=where, expected=f"{size} bytes", found=f"{start + got} bytes"
                )
            next_ = start + (turns - 1) * IO_BLOCK
            if next_ < size:
                ahead.append(worker.submit(storage.read_into, file, next_, place(next_)))
            yield start, place(start)[: stop - start]
