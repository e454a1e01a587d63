"""Weights of Keras in several files, and the JSON beside them that names these (``NAME.weights.json``)."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError
from milepost.formats import bounds
from milepost.formats.hdf5 import WEIGHTS, Hdf5
from milepost.formats.place import File, Folder
from milepost.formats.plain_json import read_json_of
from milepost.formats.source import FormatSource

NAME = "weights of Keras in several files"
MOST_FILES = 2000


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, File) and b'"weight_map"' in place.head and b'.weights.h5"' in place.head


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    told = read_json_of(place)
    listed = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(listed, dict):
        raise FormatError("the list of weights cannot be understood", where=place.where)
    names: dict[str, None] = {}
    for value in listed.values():
        names |= dict.fromkeys([value] if isinstance(value, str) else value)
    if not all(isinstance(name, str) for name in names):
        raise FormatError("the list of weights cannot be understood", where=place.where)
    if len(names) > bounds.most(MOST_FILES):
        raise bounds.too_much("more files than any weights are in", place.where, bound=MOST_FILES, found=len(names))
    return KerasShards(place, [Hdf5.of(place.folder.file(name, place.where)) for name in names])


class KerasShards(FormatSource):
    """The weights of all files together."""

    def __init__(self, index: File, parts: list[Hdf5]) -> None:
        self._parts: dict[str, Hdf5] = {}
        specs: dict[str, TensorSpec] = {}
        plain: dict[str, Any] = {}
        told: dict[str, Any] = {"format": NAME, "written_by": {"framework": "keras"}}
        notes: dict[str, str] = {}
        for part in parts:
            for path, spec in part.specs.items():
                if path in specs:
                    raise FormatError(f"tensor {path!r} is in two files", where=index.where)
                specs[path], self._parts[path] = spec, part
            plain |= {path: value for path, value in part.plain.items() if path not in specs}
            notes |= part.notes
            if part.metadata["format"] == WEIGHTS and "step" in part.metadata:
                told["step"] = part.metadata["step"]
        self.notes = notes
        super().__init__(index.where, specs, plain, told)

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        return self._parts[path]._read(path, spec)
