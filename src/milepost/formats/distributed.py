"""Folders of ``torch.distributed.checkpoint``: tensors in boxes, spread over the files of the processes that saved them.

``.metadata`` is a pickle of the class ``Metadata`` in ``torch/distributed/checkpoint/metadata.py``, which says of each tensor which
boxes it consists of, and of each box (and each value that is no tensor) which bytes of which ``.distcp`` file it is. Those bytes
are a small file of ``torch.save`` each. All pickles are followed, never run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from milepost.core.boxes import Box, flaw, place_box
from milepost.core.foreign import Foreign
from milepost.core.paths import below, escape, join
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError
from milepost.formats import bounds
from milepost.formats.archive import Archive
from milepost.formats.pickle_machine import Machine
from milepost.formats.pickle_values import Dict, Leaf, Stored, Thing
from milepost.formats.place import File, Folder, Readable, Window
from milepost.formats.pytorch import value_of
from milepost.formats.pytorch_names import TorchNames
from milepost.formats.pytorch_tensors import kind_of
from milepost.formats.pytorch_told import told
from milepost.formats.source import spec
from milepost.formats.unpickled import Contents, PickledSource

NAME = "a folder of torch.distributed.checkpoint"
MOST_OBJECTS = 10_000
"""Values that are no tensors, and are read; each is a file of its own."""
METADATA, SUFFIX = ".metadata", ".distcp"
_OF_RANK = re.compile(r"__(\d{1,9})\.metadata")
_LIGHTNING = "meta.pt"
"""What Lightning writes beside: the step, the epoch, the loops."""


class _Part(NamedTuple):
    """Where the bytes of a box or of an object are; `packed` by which extensions."""

    file: str
    offset: int
    length: int
    packed: Any


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, Folder) and (METADATA in place.names or any(name.endswith(SUFFIX) for name in place.names))


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, Folder)
    ranks = [METADATA] if METADATA in place.names else [name for name in place.names if _OF_RANK.fullmatch(name)]
    if not ranks:
        raise FormatError(
            "this checkpoint was not finished: its files were written, but not what is in them",
            where=place.where, found="no .metadata", hint="use an earlier checkpoint",
        )  # fmt: skip
    contents = Contents(place.where)
    records: dict[str, list[Readable]] = {}
    for name in ranks:
        rank = _OF_RANK.fullmatch(name)
        saved = _Saved(place, name, contents, f"rank{int(rank[1])}" if rank else "")
        saved.enter()
        records |= saved.records
    metadata: dict[str, Any] = {"format": NAME}
    tops = Dict([part for path, value in contents.plain.items() if "/" not in path for part in (path, value)])
    if _LIGHTNING in place.names:
        beside = value_of(Archive(place.file(_LIGHTNING)))
        metadata["format"] = "a checkpoint of Lightning in a folder of torch.distributed.checkpoint"
        contents.add(beside, "meta")
        tops = beside
    return Distributed(place.where, contents, metadata | told(tops), records)


class Distributed(PickledSource):
    """One folder; `records` has by path what its boxes, or the object, are written as: archives of ``torch.save``."""

    def __init__(
        self, where: str, contents: Contents, metadata: dict[str, Any], records: dict[str, list[Readable]]
    ) -> None:
        super().__init__(where, contents, metadata)
        self.records = records


class _Saved:
    """What one ``.metadata`` says, entered into `contents` below `under`."""

    def __init__(self, folder: Folder, name: str, contents: Contents, under: str) -> None:
        self._folder, self._contents, self._under = folder, contents, under
        file = folder.file(name)
        self._where = file.where
        self._files: dict[str, File] = {}
        self.records: dict[str, list[Readable]] = {}
        machine = Machine(file, TorchNames())
        told = _fields(machine.run(), "Metadata", file.where)
        self._entries = _dict(told.get("state_dict_metadata"), "state_dict_metadata", file.where)
        self._parts = dict(self._read_parts(_dict(told.get("storage_data"), "storage_data", file.where)))
        planned = told.get("planner_data")
        self._paths = planned.named() if isinstance(planned, Dict) else {}

    def _read_parts(self, stored: Dict) -> Iterator[tuple[tuple[str, tuple[int, ...] | None], _Part]]:
        for key, value in stored.pairs():
            index = _fields(key, "MetadataIndex", self._where)
            info = _fields(value, "_StorageInfo", self._where)
            name, offset = index.get("fqn"), index.get("offset")
            place = info.get("relative_path"), info.get("offset"), info.get("length")
            if type(name) is not str or [type(part) for part in place] != [str, int, int]:
                raise FormatError("a place in a file is described in a way that none is", where=self._where)
            at = None if offset is None else _sizes(offset, name, self._where)
            yield (name, at), _Part(*place, info.get("transform_descriptors"))  # type: ignore[arg-type]

    def enter(self) -> None:
        """All tensors and objects."""
        objects = 0
        for name, entry in self._entries.named().items():
            path = self._path(name)
            if path in self._contents.specs or path in self._contents.plain:
                raise FormatError(f"two entries are at {path!r}", where=self._where)
            if isinstance(entry, Thing) and entry.cls.name == "BytesStorageMetadata":
                objects += 1
                record = self._open((name, None))
                self.records[path] = [record]
                if objects > bounds.most(MOST_OBJECTS):
                    self._contents.plain[path] = Foreign("python.object", {}, "too many of them to be read")
                else:
                    self._contents.add(value_of(Archive(record)), path)
            else:
                self._tensor(name, path, _fields(entry, "TensorStorageMetadata", self._where))

    def _path(self, name: str) -> str:
        """The path of an entry, which is at a dotted `name`: the levels that were joined, if they are known."""
        levels = self._paths.get(name)
        if type(levels) is tuple and levels and all(type(level) in (str, int) for level in levels):
            return below(self._under) + join(map(str, levels))
        return below(self._under) + escape(name)

    def _tensor(self, name: str, path: str, fields: dict[str, Any]) -> None:
        made = spec(
            self._kind(fields.get("properties")), _sizes(fields.get("size"), name, self._where), self._where, name
        )
        chunks = fields.get("chunks")
        if type(chunks) is not list:
            raise FormatError(f"tensor {name!r} consists of nothing", where=self._where)
        boxes: list[tuple[Box, Readable]] = []
        for chunk in chunks:
            part = _fields(chunk, "ChunkStorageMetadata", self._where)
            box = Box(*(_sizes(part.get(side), name, self._where) for side in ("offsets", "sizes")))
            boxes.append((box, self._open((name, box.offset))))
        wrong = flaw([box for box, _ in boxes], made.shape)
        if wrong is not None:
            raise FormatError(f"tensor {name!r} is not all there: {wrong}", where=self._where)
        self._contents.specs[path] = made
        self.records[path] = [data for _, data in boxes]
        self._contents.readers[path] = _reader(made, boxes)

    def _kind(self, properties: Any) -> Any:
        state = properties.state if isinstance(properties, Thing) else ()
        first = state[0] if len(state) == 1 else None
        if isinstance(first, Dict):
            return kind_of(first.get("dtype"))
        return kind_of(first[0] if type(first) is tuple and first else None)

    def _open(self, key: tuple[str, tuple[int, ...] | None]) -> Readable:
        """The bytes of a box or of an object."""
        name, _ = key
        part = self._parts.get(key)
        if part is None:
            raise FormatError(f"a part of {name!r} is in no file", where=self._where)
        if part.packed:
            raise FormatError(
                f"{name!r} is packed by an extension of torch.distributed.checkpoint, which is not read",
                where=self._where, found=repr(part.packed)[:100],
            )  # fmt: skip
        file = self._files.get(part.file)
        if file is None:
            file = self._files[part.file] = self._folder.file(part.file, self._where)
        return Window(file, part.offset, part.length, f"{file.where}, {part.length} bytes from {part.offset} on")


def _reader(made: TensorSpec, boxes: list[tuple[Box, Readable]]) -> Callable[[], npt.NDArray[Any]]:
    def read() -> npt.NDArray[Any]:
        out: npt.NDArray[np.uint8] = np.zeros(made.nbytes, np.uint8)
        for box, data in boxes:
            place_box(out, made.dtype, made.shape, *box, _box(data, made, box))
        return out if made.dtype.numpy is None else out.view(made.dtype.numpy).reshape(made.shape)

    return read


def _box(data: Readable, made: TensorSpec, box: Box) -> npt.NDArray[np.uint8]:
    """The bytes of one box."""
    value = value_of(Archive(data))
    found = next((part for _, part in value.parts("", data.where)), None) if isinstance(value, Leaf) else None
    if not isinstance(found, Stored) or (found.spec.dtype, found.spec.shape) != (made.dtype, box.shape):
        raise FormatError(
            "a box of a tensor is something else than was said", where=data.where,
            expected=f"{made.dtype.name} {list(box.shape)}",
            found=f"{found.spec.dtype.name} {list(found.spec.shape)}" if isinstance(found, Stored) else None,
        )  # fmt: skip
    return np.ascontiguousarray(found.read()).reshape(-1).view(np.uint8)


def _fields(value: Any, cls: str, where: str) -> dict[str, Any]:
    if not isinstance(value, Thing) or value.cls.name != cls:
        found = str(value.cls) if isinstance(value, Thing) else type(value).__name__
        raise FormatError("the metadata are not of the expected form", where=where, expected=cls, found=found[:100])
    return value.fields()


def _dict(value: Any, name: str, where: str) -> Dict:
    if not isinstance(value, Dict):
        raise FormatError(f"the metadata have no {name}", where=where)
    return value


def _sizes(value: Any, name: str, where: str) -> tuple[int, ...]:
    if type(value) not in (tuple, list) or any(type(size) is not int or not 0 <= size < 2**62 for size in value):
        raise FormatError(f"tensor {name!r} has an impossible shape", where=where, found=repr(value)[:100])
    return tuple(value)
