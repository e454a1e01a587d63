"""Checkpoints of Orbax, for JAX: folders of arrays in zarr or OCDBT, one or several items, one or several steps.

tensorstore parses the arrays in a process of its own. The files of JSON beside them, which say what the arrays are called, are read
here; no name in them is a place to go to.
"""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.paths import join
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError, NotFoundError, UnsafeContentError
from milepost.formats import bounds
from milepost.formats.child import Child
from milepost.formats.orbax_tree import TREE, random_keys, read_tree
from milepost.formats.place import File, Folder
from milepost.formats.plain_json import read_json_of
from milepost.formats.source import FormatSource, as_array, spec, unused
from milepost.storage.base import storage_error

NAME = "an Orbax checkpoint"
ABOUT = "_CHECKPOINT_METADATA"
OCDBT = "manifest.ocdbt"
STRINGS = "_strings.json"
JSON_ITEMS = ("metadata", "metrics")
UNNAMED = frozenset({("default",), ("state",), ("pytree",)})
"""What Orbax calls the item where the caller named none."""
MOST_FILES = 200_000
DEEPEST = 16
LISTING = 2.0
"""Seconds of processor time that listing the arrays may take, on all cores together."""
SLOWEST = 10e6
"""Bytes a second that reading must come to."""

_STEP = re.compile(r"(?:[A-Za-z_.-]*[_.-])?([0-9]{1,18})")


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, Folder) and (_is_one(place) or bool(_steps(place)))


def open_source(place: File | Folder) -> TensorSource:
    """One checkpoint; of a folder of several the newest step, with the names of all in its metadata (``checkpoints``).

    See `milepost.formats.detect.FormatModule`.
    """
    assert isinstance(place, Folder)
    if _is_one(place):
        return _open(place, {})
    steps = _steps(place)
    told = {"checkpoints": [name for _, name in steps], "step": steps[-1][0]}
    return _open(place.folder(steps[-1][1]), told)


class Orbax(FormatSource):
    """One checkpoint, its arrays listed."""

    def __init__(
        self,
        where: str,
        child: Child,
        specs: dict[str, TensorSpec],
        arrays: dict[str, tuple[str, str]],
        plain: dict[str, Any],
        told: dict[str, Any],
        size: int,
        notes: dict[str, str],
    ) -> None:
        super().__init__(where, specs, plain, told)
        self.notes = notes
        self._child, self._arrays, self._size = child, arrays, size
        if "step" not in told and "step" in specs and not specs["step"].shape and not specs["step"].dtype.floating:
            told["step"] = int(self["step"])

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        root, name = self._arrays[path]
        if spec.nbytes > 1 << 26 and spec.nbytes > 1100 * self._size:
            raise UnsafeContentError(f"tensor {path!r} is far larger than its files", where=self.where)
        out: npt.NDArray[Any] = np.empty(spec.nbytes, np.uint8)
        self._child.ask(
            out.data if out.size else None, do="read", seconds=LISTING + spec.nbytes / SLOWEST,
            memory=4 * min(spec.nbytes, 16 * self._size), root=root, name=name, nbytes=spec.nbytes,
        )  # fmt: skip
        return as_array(out, spec)


def _open(place: Folder, told: dict[str, Any]) -> Orbax:
    if importlib.util.find_spec("tensorstore") is None:
        raise FormatError(
            "Orbax checkpoints are read by tensorstore, which is not installed",
            where=place.where,
            hint="pip install 'milepost[formats]'",
        )
    size = _only_own_files(place.where)
    child = Child("orbax_child", place.where)
    specs: dict[str, TensorSpec] = {}
    arrays: dict[str, tuple[str, str]] = {}
    plain: dict[str, Any] = {}
    notes: dict[str, str] = {}
    metadata: dict[str, Any] = {"format": NAME, "written_by": {"framework": "orbax"}, **told}
    about = _json(place, ABOUT) if place.has(ABOUT) else None
    about = about if isinstance(about, dict) else {}
    plain |= {name: about[name] for name in ("metrics", "custom_metadata") if about.get(name)}
    items = _items(place)
    trees = [item for item, folder in items.items() if _is_tree(folder)]
    for item, folder in items.items():
        prefix = [] if len(trees) == 1 and item in UNNAMED else list(item)
        for name in JSON_ITEMS:
            if folder.has(name):
                plain[unused(join(prefix or [name]), plain)] = _json(folder, name)
        if item in trees:
            _tree(child, folder, prefix, specs, arrays, plain, notes)
    if not specs and not plain:
        if "commit_timestamp_nsecs" in about and about["commit_timestamp_nsecs"] is None:
            raise FormatError("saving this checkpoint was never finished", where=place.where)
        raise NotFoundError("there is nothing in this checkpoint", where=place.where, expected="arrays of Orbax")
    return Orbax(place.where, child, specs, arrays, plain, metadata, size, notes)


def _tree(
    child: Child,
    folder: Folder,
    prefix: list[str],
    specs: dict[str, TensorSpec],
    arrays: dict[str, tuple[str, str]],
    plain: dict[str, Any],
    notes: dict[str, str],
) -> None:
    """Note what is in one tree of arrays."""
    root = os.path.realpath(folder.where)
    tree = read_tree(folder)
    found = child.ask(again=True, do="open", seconds=LISTING, root=root, ocdbt=folder.has(OCDBT), whole=tree.whole)
    missing = tree.needed.difference(name for name, _, _ in found)
    if missing:
        raise FormatError(
            "an array that is listed is not there", where=folder.where, expected=ascii(min(missing))[:200]
        )
    strings = _json(folder, STRINGS) if folder.has(STRINGS) else {}
    keys = random_keys(folder)
    for name, kind, shape in found:
        path = unused(join([*prefix, *(tree.keys.get(name) or name.split("."))]), specs, plain)
        specs[path] = spec(dtypes.dtype(kind), tuple(shape), folder.where, path)
        arrays[path] = root, name
        if name in keys:
            notes[path] = f"random keys of JAX ({keys[name]})"
    for parts, value in tree.empty:
        plain[unused(join([*prefix, *parts]), specs, plain)] = value
    for name, parts in tree.texts.items():
        if isinstance(strings.get(name), str):
            plain[unused(join([*prefix, *parts]), specs, plain)] = strings[name]


def _is_tree(place: Folder) -> bool:
    if TREE in place.names or OCDBT in place.names:
        return place.has(TREE) or place.has(OCDBT)
    return any(place.has(f"{name}/.zarray") or place.has(f"{name}/zarr.json") for name in place.names[:100])


def _is_one(place: Folder) -> bool:
    return place.has(ABOUT) or place.has(TREE) or place.has(OCDBT) or _is_tree(place)


def _steps(place: Folder) -> list[tuple[int, str]]:
    """The steps that are folders of checkpoints, the newest last."""
    found = [(int(match[1]), name) for name in place.names if (match := _STEP.fullmatch(name)) is not None]
    return [(step, name) for step, name in sorted(found) if any(place.has(f"{name}/{mark}") for mark in (ABOUT, TREE))]


def _items(place: Folder, *above: str) -> dict[tuple[str, ...], Folder]:
    """The folders that may hold an item, by their names; an item of random keys has two of its own."""
    found = {above: place}
    if len(above) < 2 and not _is_tree(place):
        for name in _folders(place):
            found |= _items(place.folder(name), *above, name)
    return found


def _folders(place: Folder) -> list[str]:
    return [name for name in place.names if os.path.isdir(os.path.join(place.where, name))]


def _json(folder: Folder, name: str) -> Any:
    return read_json_of(folder.file(name))


def _only_own_files(top: str) -> int:
    """The bytes in a folder, which tensorstore will open by name: plain files only, and no links.

    Raises:
        UnsafeContentError: a link, a pipe, a device, or more files than any checkpoint has.
    """
    size = count = 0
    waiting = [(top, 0)]
    while waiting:
        here, depth = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    count += 1
                    found = entry.stat(follow_symlinks=False)
                    if count > bounds.most(MOST_FILES):
                        raise bounds.too_much("more files than any checkpoint has", top, bound=MOST_FILES)
                    if stat.S_ISDIR(found.st_mode) and depth < DEEPEST:
                        waiting.append((entry.path, depth + 1))
                    elif stat.S_ISREG(found.st_mode):
                        size += found.st_size
                    else:
                        raise UnsafeContentError(
                            "something in the checkpoint is no plain file, or is too deep in folders",
                            where=entry.path,
                            hint="replace a link by the file it leads to, if you trust it",
                        )
        except OSError as error:
            raise storage_error(error, "look through the folder", here) from error
    return size
