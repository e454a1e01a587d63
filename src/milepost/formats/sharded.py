"""Weights in several files and an index of them, as the Hugging Face libraries write: ``model.safetensors.index.json`` and
``pytorch_model.bin.index.json`` have under ``weight_map`` the file that each tensor is in.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from milepost.core.paths import escape
from milepost.core.source import TensorSource
from milepost.errors import FormatError, NotFoundError
from milepost.formats import bounds
from milepost.formats.detect import open_place
from milepost.formats.joined import Joined, read_object
from milepost.formats.place import File, Folder

NAME = "an index of weights in several files"
MOST_FILES = 5_000
_MAP = "weight_map"


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, File) or not place.head.lstrip().startswith(b"{"):
        return False
    return f'"{_MAP}"'.encode() in place.head


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    index = read_object(place)
    files = _files(index, place.where)
    made = Joined(place.where, {"format": "weights in several files", "files": len(files)})
    at = {path: name for name, paths in files.items() for path in paths}
    for name, wanted in files.items():
        part = _open(place, name)
        lost = [path for path in wanted if path not in part.specs]
        if lost:
            there = set(map(_unmarked, (*part.specs, *part.plain)))
            lost = [path for path in lost if _unmarked(path) not in there]
        if lost:
            raise FormatError(
                f"tensor {lost[0]!r} is not in the file that the index names", where=place.where, found=name[:200]
            )
        # What a file has beside what the index says is shown as well, unless the index means that of another file.
        made.add(part, wanted=_of(name, at))
    if index.get("metadata"):
        made.tell_all(escape("__metadata__"), index["metadata"])
    return made


def _unmarked(path: str) -> str:
    """Of a tensor that consists of several (sparse ...) each has its mark behind the path, or is below it."""
    return re.split(r"~(?=[a-z])|/", path, maxsplit=1)[0]


def _of(name: str, at: dict[str, str]) -> Callable[[str], bool]:
    return lambda path: at.get(path, name) == name


def files_named(place: File) -> set[str]:
    """The files that an index names; raises as `open_source` does where it cannot be read."""
    return set(_files(read_object(place), place.where))


def _files(index: dict[str, Any], where: str) -> dict[str, list[str]]:
    """File -> paths of the tensors in it."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    entries = index.pop(_MAP, None)
    if not isinstance(entries, dict):
        raise FormatError(f"the index has no {_MAP}", where=where)
    for name, file in entries.items():
        if not isinstance(file, str):
            raise FormatError(f"the index names no file for tensor {name!r}", where=where, found=repr(file)[:100])
        found[file].append(escape(name))
    if len(found) > bounds.most(MOST_FILES):
        raise bounds.too_much("more files than are read", where, bound=MOST_FILES, found=len(found))
    return found


def _open(index: File, name: str) -> TensorSource:
    try:
        file = index.folder.file(name, index.where)
    except NotFoundError as error:
        raise NotFoundError(
            "a file that the index names is missing", where=index.where, found=f"no {name[:200]}",
            hint="copy or download the rest of the checkpoint",
        ) from error  # fmt: skip
    source = None if recognises(file) else open_place(file)
    if source is not None:
        return source
    raise FormatError(
        "a file that the index names is of no format that is read",
        where=file.where, hint="a Git LFS pointer stands for a file that was not downloaded",
    )  # fmt: skip
