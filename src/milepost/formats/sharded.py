"""Models in several files, as Hugging Face's libraries split them: ``NAME.index.json`` says in which file each tensor is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy.typing as npt

from milepost.core.paths import escape
from milepost.core.readjson import Unreadable, read_json
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError
from milepost.formats.place import File, Folder
from milepost.formats.source import FormatSource

NAME = "an index of a model in several files"
SUFFIX = ".index.json"
LARGEST = 32 * 1024 * 1024
"""Bytes of an index."""
MOST_FILES = 4096


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
    metadata: dict[str, Any] = {}


class Joined(FormatSource):
    """Sources side by side; each path belongs to one of them.

    Args:
        where: the place, for people.
        parts: path -> (source, path in it).
        plain: path -> plain value.
        metadata: as `FormatSource`.
    """

    def __init__(
        self, where: str, parts: Mapping[str, tuple[TensorSource, str]], plain: dict[str, Any], metadata: dict[str, Any]
    ) -> None:
        super().__init__(where, {path: source.specs[inner] for path, (source, inner) in parts.items()}, plain, metadata)
        self._parts = parts

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        source, inner = self._parts[path]
        return source[inner]


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return (
        isinstance(place, File)
        and place.name.endswith(SUFFIX)
        and b'"weight_map"' in place.read(0, min(place.size, LARGEST))
    )


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    source, _ = open_index(place)
    return source


def open_index(index: File) -> tuple[TensorSource, set[str]]:
    """The tensors of the files that `index` names, and these names.

    Raises:
        FormatError: the index, or a file, is damaged, or they do not fit together.
        UnsafeContentError: a name leads out of the folder.
        NotFoundError: a file is missing.
    """
    from milepost.formats.detect import open_place

    if index.size > LARGEST:
        raise FormatError("the index is impossibly large", where=index.where, found=f"{index.size} bytes")
    try:
        told = read_json(index.read(0, index.size), _Index)
    except Unreadable as error:
        raise FormatError("the index cannot be read", where=index.where, found=str(error)[:200]) from error
    names = sorted(set(told.weight_map.values()))
    if len(names) > MOST_FILES:
        raise FormatError("the index names impossibly many files", where=index.where, found=f"{len(names)}")
    shards = {}
    for name in names:
        file = index.folder.file(name, index.where)
        source = None if name.endswith(SUFFIX) else open_place(file)
        if source is None:
            raise FormatError("a file that the index names is of no format that is read", where=file.where)
        shards[name] = source
    parts = {path: (source, path) for source in shards.values() for path in source.specs}
    # Of a tensor of several parts (sparse ...) the first part of the path is what the index names.
    tops = {
        name: {inner.split("/")[0].split("~")[0] for inner in (*shard.specs, *shard.plain)}
        for name, shard in shards.items()
    }
    for key, name in told.weight_map.items():
        path = escape(key)
        if path in shards[name].specs:
            parts[path] = (shards[name], path)
        elif path.split("~")[0] not in tops[name]:
            raise FormatError(f"tensor {key!r} is not in the file that the index names", where=index.where, found=name)
    plain = {path: value for source in shards.values() for path, value in source.plain.items()}
    metadata = {"format": f"{len(shards)} files, joined by an index"}
    return Joined(index.where, parts, plain, metadata), set(names)
