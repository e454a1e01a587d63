"""Checkpoints of Orbax, for JAX: folders of arrays in zarr or OCDBT, one or several items, one or several steps.

tensorstore parses the arrays in a process of its own. The files of JSON beside them, which say what the arrays are called, are read
here; no name in them is a place to go to.
"""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.foreign import Foreign
from milepost.core.paths import Part, below, join
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError, NotFoundError, UnsafeContentError
from milepost.formats import bounds
from milepost.formats.child import Child
from milepost.formats.orbax_steps import ABOUT, METRICS, UNFINISHED, metrics_in, step_of, time_of, unfinished
from milepost.formats.orbax_tree import TREE, has_aggregate, is_name, random_keys, read_tree
from milepost.formats.place import File, Folder
from milepost.formats.plain_json import read_json_of
from milepost.formats.source import FormatSource, as_array, spec, unused
from milepost.storage.base import storage_error

NAME = "an Orbax checkpoint"
OCDBT = "manifest.ocdbt"
STRINGS = "_strings.json"
JSON_ITEMS = ("metadata", METRICS)
UNNAMED = frozenset({("default",), ("state",), ("pytree",)})
"""What Orbax calls the item where the caller named none."""
MOST_FILES = 200_000
MOST_ITEMS = 20
"""Folders that are looked at to find whether they are items."""
DEEPEST = 16
LISTING = 2.0
"""Seconds of processor time that listing the arrays may take, on all cores together."""
SLOWEST = 10e6
"""Bytes a second that reading must come to."""

MOST_TREES = 64
"""In one process, which has the descriptions of all arrays in memory."""

_processes: WeakValueDictionary[str, Child] = WeakValueDictionary()
"""By the folder above: the steps of a job are asked of one process, or of few, as long as any of them is open."""


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, Folder) and (
        UNFINISHED in _name(place) or _is_one(place) or bool(_steps(place) or unfinished(place))
    )


def open_source(place: File | Folder) -> TensorSource:
    """One checkpoint; of a folder of several the newest step, with the names of all in its metadata (``checkpoints``), and of those
    that were never finished (``unfinished``).

    See `milepost.formats.detect.FormatModule`.
    """
    assert isinstance(place, Folder)
    if UNFINISHED in _name(place):
        raise FormatError("saving this checkpoint was never finished", where=place.where)
    if _is_one(place):
        return _open(place, {})
    found, cut_short = _steps(place), unfinished(place)
    if not found:
        raise FormatError(
            "no checkpoint in this folder was ever finished", where=place.where, found=", ".join(cut_short[-3:])
        )
    return _open(place.folder(found[-1]), {"checkpoints": found, "unfinished": cut_short})


def checkpoints_in(place: Folder) -> list[str]:
    """The names of the steps in `place`, the newest last, and of those that were never finished; none if it is one checkpoint."""
    return [] if _is_one(place) else [*_steps(place), *unfinished(place)]


class Contents:
    """What is in a checkpoint, by path, as it is found."""

    def __init__(self, plain: dict[str, Any]) -> None:
        self.specs: dict[str, TensorSpec] = {}
        self.arrays: dict[str, tuple[str, str]] = {}
        """Folder and name of each array."""
        self.aside: dict[str, tuple[TensorSource, str]] = {}
        """What is in no array, and where it is instead."""
        self.plain = plain
        self.of_jax: dict[str, str | None] = {}
        self.sequences: set[str] = set()

    def new(self, prefix: list[str], parts: Sequence[Part]) -> str:
        """A path for one more value."""
        return unused(join([*prefix, *parts]), self.specs, self.plain)


class Orbax(FormatSource):
    """One checkpoint, its arrays listed."""

    def __init__(self, where: str, child: Child, contents: Contents, told: dict[str, Any], size: int) -> None:
        super().__init__(where, contents.specs, contents.plain, told)
        self.notes = {
            path: f"random keys of JAX ({kind})" for path, kind in contents.of_jax.items() if kind is not None
        }
        self.of_jax = contents.of_jax
        """The paths of what were arrays of JAX, and of which kind those were that are the data of typed keys."""
        self.sequences = frozenset(contents.sequences)
        """The paths of lists and tuples, which Orbax does not tell apart."""
        self._child, self._arrays, self._aside, self._size = child, contents.arrays, contents.aside, size
        step, found = contents.plain.get("step"), contents.specs.get("step")
        if found is not None and not found.shape and not found.dtype.floating:
            step = int(self["step"])
        if "step" not in told and type(step) is int:
            told["step"] = step

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        if path in self._aside:
            source, inner = self._aside[path]
            return source[inner]
        root, name = self._arrays[path]
        if spec.nbytes > 1 << 26 and spec.nbytes > 1100 * self._size:
            raise UnsafeContentError(f"tensor {path!r} is far larger than its files", where=self.where)
        out: npt.NDArray[Any] = np.empty(spec.nbytes, np.uint8)
        _ask(
            self._child, self.where, out.data if out.size else None, do="read", seconds=LISTING + spec.nbytes / SLOWEST,
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
    child = _process_for(place)
    about = _json(place, ABOUT) if place.has(ABOUT) else None
    about = about if isinstance(about, dict) else {}
    contents = Contents({name: about[name] for name in (METRICS, "custom_metadata") if about.get(name)})
    items = _items(place)
    trees = [item for item, folder in items.items() if _is_tree(folder)]
    for item, folder in items.items():
        prefix = [] if len(trees) == 1 and item in UNNAMED else list(item)
        for name in JSON_ITEMS:
            if folder.has(name):
                contents.plain[contents.new([], prefix or [name])] = _json(folder, name)
        if item in trees:
            _tree(child, folder, prefix, contents)
    if not contents.specs and not contents.plain:
        if "commit_timestamp_nsecs" in about and about["commit_timestamp_nsecs"] is None:
            raise FormatError("saving this checkpoint was never finished", where=place.where)
        raise NotFoundError("there is nothing in this checkpoint", where=place.where, expected="arrays of Orbax")
    known = {"step": step_of(_name(place)), "time": time_of(about), "metrics": metrics_in(contents.plain.get(METRICS))}
    told |= {name: value for name, value in known.items() if value or value == 0}
    return Orbax(place.where, child, contents, {"format": NAME, "written_by": {"framework": "orbax"}, **told}, size)


def _tree(child: Child, folder: Folder, prefix: list[str], contents: Contents) -> None:
    """Note what is in one tree of arrays."""
    root = os.path.realpath(folder.where)
    tree = read_tree(folder)
    contents.sequences.update(join([*prefix, *keys]) for keys in tree.sequences)
    found = _ask(
        child,
        folder.where,
        again=True,
        do="open",
        seconds=LISTING,
        root=root,
        ocdbt=folder.has(OCDBT),
        whole=tree.whole,
    )
    missing = tree.needed.difference(name for name, _, _ in found)
    if missing:
        raise FormatError(
            "an array that is listed is not there", where=folder.where, expected=ascii(min(missing))[:200]
        )
    strings = _json(folder, STRINGS) if folder.has(STRINGS) else {}
    keys = random_keys(folder)
    for name, kind, shape in found:
        path = contents.new(prefix, tree.keys.get(name) or name.split("."))
        contents.specs[path] = spec(dtypes.dtype(kind), tuple(shape), folder.where, path)
        contents.arrays[path] = root, name
        if name in tree.of_jax or name in keys:
            contents.of_jax[path] = keys.get(name)
    for parts, value in tree.empty:
        contents.plain[contents.new(prefix, parts)] = value
    for name, parts in tree.texts.items():
        if isinstance(strings.get(name), str):
            contents.plain[contents.new(prefix, parts)] = strings[name]
    if tree.aside is not None:
        _aside(tree.aside, below(join(prefix)), contents)


def _aside(values: TensorSource, prefix: str, contents: Contents) -> None:
    """Note the values that stand in the tree itself."""
    for inner, found in values.specs.items():
        if (path := prefix + inner) not in contents.specs:
            contents.specs[path], contents.aside[path] = found, (values, inner)
    for inner, value in values.plain.items():
        if (path := prefix + inner) not in contents.specs:
            contents.plain[path] = (
                Foreign("orbax.array", {"name": value}, "the array is not there") if is_name(value) else value
            )


def _is_tree(place: Folder) -> bool:
    if TREE in place.names or OCDBT in place.names:
        return place.has(TREE) or place.has(OCDBT)
    return has_aggregate(place) or any(
        place.has(f"{name}/.zarray") or place.has(f"{name}/zarr.json") for name in place.names[:100]
    )


def _is_one(place: Folder) -> bool:
    """Whether `place` is one checkpoint: a tree, or as the first managers left it, folders that are trees and have no numbers."""
    if place.has(ABOUT) or _is_tree(place):
        return True
    folders = [name for name in _folders(place) if UNFINISHED not in name][:MOST_ITEMS]
    return not any(step_of(name) is not None for name in folders) and any(
        _is_tree(place.folder(one)) for one in folders
    )


def _steps(place: Folder) -> list[str]:
    """The steps that are folders of checkpoints, the newest last."""
    found = sorted((step, name) for name in place.names if (step := step_of(name)) is not None)
    return [name for _, name in found if _is_step(place, name)]


def _is_step(place: Folder, name: str) -> bool:
    if any(place.has(f"{name}/{mark}") for mark in (ABOUT, TREE)):
        return True
    path = os.path.join(place.where, name)
    return os.path.isdir(path) and not os.path.islink(path) and _is_one(place.folder(name))


def _name(place: Folder) -> str:
    return os.path.basename(os.path.abspath(place.where))


def _process_for(place: Folder) -> Child:
    above = os.path.dirname(os.path.realpath(place.where))
    child = _processes.get(above)
    if child is None or child.remembered >= MOST_TREES:
        child = _processes[above] = Child("orbax_child", above)
    return child


def _ask(child: Child, where: str, out: memoryview | None = None, **question: Any) -> Any:
    """As `Child.ask`, whose process serves several places: errors are of this one."""
    try:
        return child.ask(out, **question)
    except FormatError as error:
        error.where = where
        raise


def _items(place: Folder, *above: str) -> dict[tuple[str, ...], Folder]:
    """The folders that may hold an item, by their names; an item of random keys has two of its own."""
    found = {above: place}
    if len(above) < 2 and not _is_tree(place):
        for name in _folders(place):
            found |= _items(place.folder(name), *above, name)
    return found


def _folders(place: Folder) -> list[str]:
    """Those in `place`; links are none, wherever they lead."""
    paths = {name: os.path.join(place.where, name) for name in place.names}
    return [name for name, path in paths.items() if os.path.isdir(path) and not os.path.islink(path)]


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
