"""Folders of ``torch.distributed.checkpoint``: ``.metadata``, a pickle that says which box of which tensor is where, and
``*.distcp`` files in which each box, and each plain value, is a file of ``torch.save``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from milepost.core.foreign import Foreign
from milepost.core.paths import escape, join
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError
from milepost.formats.archive import Archive
from milepost.formats.pickle_machine import Machine
from milepost.formats.pickle_values import Dict, Leaf, Stored, Thing
from milepost.formats.place import File, Folder, Window
from milepost.formats.pytorch import value_of
from milepost.formats.pytorch_names import TorchNames
from milepost.formats.pytorch_tensors import kind_of
from milepost.formats.source import spec
from milepost.formats.unpickled import Contents, PickledSource

NAME = "a torch.distributed checkpoint"
METADATA = ".metadata"
MOST_BOXES = 4096
"""Boxes of one tensor."""


class _Blob(NamedTuple):
    """Where a box or a value is."""

    file: str
    offset: int
    size: int


class _Box(NamedTuple):
    """A box of a tensor and where it is."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    blob: _Blob


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, Folder) and place.has(METADATA) and place.file(METADATA).head.startswith(b"\x80")


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, Folder)
    return _Reader(place).source()


class _Reader:
    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._metadata = folder.file(METADATA)
        self._files: dict[str, File] = {}
        told = Machine(self._metadata, TorchNames()).run()
        if not isinstance(told, Thing) or told.cls.name != "Metadata":
            raise FormatError("this is no metadata of a checkpoint", where=self._metadata.where)
        fields = told.fields()
        entries, places = fields.get("state_dict_metadata"), fields.get("storage_data")
        if not isinstance(entries, Dict) or not isinstance(places, Dict):
            raise FormatError("the metadata do not say what is where", where=self._metadata.where)
        self._entries = entries.named()
        self._places = dict(self._place(key, info) for key, info in places.pairs())
        planned = fields.get("planner_data")
        self._paths = planned.named() if isinstance(planned, Dict) else {}

    def source(self) -> TensorSource:
        contents = Contents(self._folder.where)
        for name, entry in self._entries.items():
            path = self._path(name)
            if not isinstance(entry, Thing):
                raise FormatError(f"the metadata of {name!r} cannot be understood", where=self._metadata.where)
            if entry.cls.name == "BytesStorageMetadata":
                contents.add(self._value(self._found(name, None)), path)
            else:
                contents.add(self._tensor(name, entry), path)
        return PickledSource(self._folder.where, contents, {"format": NAME, **_told(contents.plain)})

    def _path(self, name: str) -> str:
        parts = self._paths.get(name)
        if type(parts) is tuple and parts and all(type(part) in (str, int) for part in parts):
            return join(map(str, parts))
        return escape(name)

    def _place(self, key: Any, info: Any) -> tuple[tuple[str, tuple[int, ...] | None], _Blob]:
        if not isinstance(key, Thing) or not isinstance(info, Thing):
            raise FormatError("the metadata do not say what is where", where=self._metadata.where)
        index, where = key.fields(), info.fields()
        name, offset = index.get("fqn"), index.get("offset")
        blob = _Blob(where.get("relative_path", ""), where.get("offset", 0), where.get("length", 0))
        if type(name) is not str or (offset is not None and not _whole(offset)) or type(blob.file) is not str:
            raise FormatError("the metadata do not say what is where", where=self._metadata.where)
        if not _whole((blob.offset, blob.size)):
            raise FormatError(f"the place of {name!r} cannot be", where=self._metadata.where)
        if where.get("transform_descriptors"):
            raise FormatError(f"{name!r} is compressed, which is not read", where=self._metadata.where)
        return (name, offset), blob

    def _found(self, name: str, offset: tuple[int, ...] | None) -> _Blob:
        found = self._places.get((name, offset))
        if found is None:
            raise FormatError(f"a part of {name!r} is nowhere", where=self._metadata.where, found=f"offset {offset}")
        return found

    def _value(self, blob: _Blob) -> Any:
        file = self._files.get(blob.file)
        if file is None:
            file = self._files[blob.file] = self._folder.file(blob.file, self._metadata.where)
        return value_of(Archive(Window(file, blob.offset, blob.size)))

    def _tensor(self, name: str, entry: Thing) -> Leaf:
        fields = entry.fields()
        shape, chunks, properties = fields.get("size"), fields.get("chunks"), fields.get("properties")
        if (
            not _whole(shape)
            or type(chunks) is not list
            or not isinstance(properties, Thing)
            or len(chunks) > MOST_BOXES
        ):
            raise FormatError(f"the metadata of {name!r} cannot be understood", where=self._metadata.where)
        named = [
            part for state in properties.state for part in (state if type(state) is tuple else state.named().values())
        ]
        kind = kind_of(next((part for part in named if isinstance(part, Foreign)), None))
        boxes = []
        for chunk in chunks:
            box = chunk.fields() if isinstance(chunk, Thing) else {}
            start, sizes = box.get("offsets"), box.get("sizes")
            if not _whole(start) or not _whole(sizes) or not len(start) == len(sizes) == len(shape):
                raise FormatError(f"a box of {name!r} cannot be", where=self._metadata.where)
            boxes.append(_Box(start, sizes, self._found(name, start)))
        found = spec(kind, shape, self._metadata.where, name)
        _check_cover(boxes, shape, name, self._metadata.where)
        return _Joined(found, lambda: self._joined(found, boxes))

    def _joined(self, found: TensorSpec, boxes: list[_Box]) -> npt.NDArray[Any]:
        # Where numpy has no such type, the bytes of an element are an axis of their own.
        size = found.dtype.bits // 8
        out: npt.NDArray[Any] = np.empty((*found.shape, size), np.uint8)
        for box in boxes:
            value = self._value(box.blob)
            part = next((part for _, part in value.parts("", "")), None) if isinstance(value, Leaf) else None
            if not isinstance(part, Stored) or part.spec[:2] != (found.dtype, box.shape):
                raise FormatError("a box is not what the metadata say", where=f"{self._folder.where}/{box.blob.file}")
            here = tuple(slice(low, low + size) for low, size in zip(box.start, box.shape, strict=True))
            out[here] = np.ascontiguousarray(part.read()).reshape(-1).view(np.uint8).reshape(*box.shape, size)
        flat = out.reshape(-1)
        return flat if found.dtype.numpy is None else flat.view(found.dtype.numpy).reshape(found.shape)


class _Joined(Leaf):
    """A tensor that is put together from its boxes."""

    __slots__ = ("_stored",)

    def __init__(self, found: TensorSpec, read: Callable[[], npt.NDArray[Any]]) -> None:
        self._stored = Stored(found, read)

    def parts(self, path: str, where: str) -> Any:
        yield "", self._stored


def _check_cover(boxes: list[_Box], shape: tuple[int, ...], name: str, where: str) -> None:
    """Raise `FormatError` unless the boxes are the tensor, each element once."""
    volume = sum(math.prod(box.shape) for box in boxes)
    inside = all(
        low + size <= most for box in boxes for low, size, most in zip(box.start, box.shape, shape, strict=True)
    )
    if not inside or volume != math.prod(shape):
        raise FormatError(f"the boxes of {name!r} are not the whole tensor", where=where)
    if len(boxes) > 1 and volume:
        low = np.array([box.start for box in boxes if 0 not in box.shape])
        high = low + np.array([box.shape for box in boxes if 0 not in box.shape])
        for index in range(1, len(low)):
            if bool(np.any(np.all((low[:index] < high[index]) & (low[index] < high[:index]), axis=1))):
                raise FormatError(f"boxes of {name!r} overlap", where=where)


def _whole(numbers: Any) -> TypeGuard[tuple[int, ...]]:
    return (
        type(numbers) is tuple
        and len(numbers) <= 64
        and all(type(number) is int and 0 <= number < 2**60 for number in numbers)
    )


def _told(plain: dict[str, Any]) -> dict[str, Any]:
    """The step and epoch, where they are at the top."""
    return {name: plain[name] for name in ("step", "epoch") if type(plain.get(name)) is int}
