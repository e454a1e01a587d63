"""Folders in which other programs keep checkpoints one beside the other, as a sequence."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from milepost.core.source import TensorSource
from milepost.errors import DamagedError, FormatError, MilepostError
from milepost.formats import detect, model_folder, orbax, tf_folder
from milepost.formats.orbax_steps import UNFINISHED
from milepost.formats.place import File, Folder, look

MOST_LOOKED_AT = 5_000
"""Names in a folder that are looked at."""

_NUMBERS = re.compile(r"([0-9]+)")
_COUNTED = re.compile(r"(?:.*[-_=])?([0-9]{1,18})(?:\.[A-Za-z].*)?")
"""Names that end with a number: ``ckpt-3``, ``epoch=1-step=500.ckpt``."""
_NUMBERED = re.compile(r".*[-_=]?[0-9]+")
"""Names of folders of single steps, as ``checkpoint-500``."""
_OF_ONE = ("*config.json", *(name for name in detect.MODEL_FILES if name != "*.safetensors"))
"""Names that say that the files of a folder belong together."""


class Member(NamedTuple):
    """One checkpoint of a sequence: where it is, what it is if it can be read, its step as far as it or its name tells, when it was
    saved or last written (ISO 8601), its bytes on disk, and its metrics where it has them."""

    where: str
    name: str
    source: TensorSource | None
    problem: MilepostError | None
    step: int | None
    time: str
    nbytes: int
    metrics: Mapping[str, float] = {}


def members(place: str) -> list[str]:
    """The checkpoints at `place`: itself if it is one, those that its list names, or those in it; in the order of their numbers,
    and none if nothing is recognised.

    Raises:
        NotFoundError, FormatError, StorageError: it cannot be looked at.
    """
    found = look(place)
    if isinstance(found, File):
        return [place] if _is_one(found) else []
    module = detect.find(found)
    if module is None:
        return _paths(place, _recognised(place, found.names))
    if module.NAME == tf_folder.NAME:
        return _paths(place, tf_folder.checkpoints_in(found)) or [place]
    if module.NAME == orbax.NAME:
        return _paths(place, orbax.checkpoints_in(found)) or [place]
    if module.NAME == model_folder.NAME and not any(fnmatchcase(name, one) for name in found.names for one in _OF_ONE):
        files = _recognised(place, found.names)
        if len(files) > 1:
            return _paths(place, files)  # one beside the other, not a model in parts
    folders = [name for name in found.names if _NUMBERED.fullmatch(name) and not found.has(name)]
    return [*_paths(place, _recognised(place, folders)), place]


def describe(where: str) -> Member:
    """What is known of the checkpoint `where`, from its header or index."""
    source, problem = None, None
    try:
        source = detect.open_source(where)
    except MilepostError as error:
        problem = error
    known: Mapping[str, Any] = {} if source is None else source.metadata
    step = known.get("step")
    if type(step) is not int:
        counted = _COUNTED.fullmatch(os.path.basename(where).partition(UNFINISHED)[0])
        step = int(counted[1]) if counted else None
    nbytes, written = _on_disk(where)
    name = os.path.basename(where.rstrip("/")) or where
    return Member(where, name, source, problem, step, known.get("time", written), nbytes, known.get("metrics", {}))


def _recognised(place: str, names: list[str]) -> list[str]:
    """Those of `names` that are checkpoints, in the order of their numbers."""
    found = []
    for name in names[:MOST_LOOKED_AT]:
        with suppress(MilepostError):  # a pipe, or what may not be read: nothing to list
            if not name.startswith(".") and _is_one(look(os.path.join(place, name))):
                found.append(name)
    return sorted(found, key=_natural)


def _is_one(place: File | Folder) -> bool:
    """Whether `place` is a checkpoint, a damaged one too."""
    try:
        return detect.find(place) is not None
    except (DamagedError, FormatError):
        return True


def _paths(place: str, names: list[str]) -> list[str]:
    return [os.path.join(place, name) for name in names]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Numbers by size."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _NUMBERS.split(name) if part]


def _on_disk(where: str) -> tuple[int, str]:
    """Bytes and time of a file, of the files in a folder, or of those that begin with the name of a TensorFlow checkpoint."""
    newest, nbytes = 0.0, 0
    folder, name = os.path.split(where)
    waiting = [where] if os.path.lexists(where) else [
        os.path.join(folder, one) for one in os.listdir(folder or ".") if one.startswith((f"{name}.index", f"{name}.data-"))
    ]  # fmt: skip
    while waiting:
        path = waiting.pop()
        with suppress(OSError):  # removed by a live job just now
            if os.path.isdir(path) and not os.path.islink(path):
                waiting += [os.path.join(path, inner) for inner in os.listdir(path)]
                continue
            found = os.stat(path)
            newest, nbytes = max(newest, found.st_mtime), nbytes + found.st_size
    return nbytes, datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds") if newest else ""
