"""Restore: choose a checkpoint, read and verify all of it, compare it with the live objects, and only then change them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from milepost.core import paths, tree
from milepost.core.adapter import adapter_for
from milepost.core.layout import Span
from milepost.core.manifest import Tensor
from milepost.errors import (
    DamagedError,
    FormatError,
    Mismatch,
    MismatchError,
    NotFoundError,
    StorageError,
    UnknownItemError,
)
from milepost.folder.checkpoint import READ_ROOM, Checkpoint, item_of
from milepost.folder.nearby import Nearby
from milepost.folder.run import Listed, RunFolder
from milepost.storage.pages import Pages
from milepost.training.continuation import Continuation
from milepost.training.items import RESERVED, Item, StatefulItem

Allocate = Callable[[str, int], memoryview]
"""(name, bytes) -> host memory, the same for the same name, that stays valid until the restore ends."""


@dataclass(frozen=True)
class ResumeReport:
    """What a restore did: the checkpoint it took, those it passed over and why, whether training is seen to continue from
    there exactly (`continuation`, which knows more with every step), and what else a person should know."""

    checkpoint: Listed | None = None
    attempt: int = 0
    passed_over: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    overridden: Mapping[str, Any] = field(default_factory=dict)
    continuation: Continuation = field(default_factory=Continuation)

    def __str__(self) -> str:
        if self.checkpoint is None:
            line = "starts from the beginning"
        else:
            summary = self.checkpoint.summary
            assert summary is not None
            line = f"continues from step {summary.step} (epoch {summary.epoch}, batch {summary.batch})"
        if self.passed_over:
            line += "; passed over " + ", ".join(f"{folder}: {reason}" for folder, reason in self.passed_over)
        return line


class LoadedItem:
    """One item of a verified checkpoint in host memory. Implements `milepost.training.items.Loaded`.

    Args:
        name: the item's.
        structure: its nested value with tensors left out.
        tensors: of the whole checkpoint, by path.
        borrows: whether views of the memory that files are read into will do, since the live object copies what it is given.
    """

    def __init__(self, name: str, structure: Any, tensors: Mapping[str, Tensor], borrows: bool) -> None:
        self.name, self.structure, self._borrows = name, structure, borrows
        self._by_path = {path: tensor for path, tensor in tensors.items() if path.partition("/")[0] == name}
        self.tensors = {path[len(name) + 1 :]: tensor for path, tensor in self._by_path.items()}
        self._data: dict[str, memoryview] = {}
        self._overrides: dict[str, Any] = {}
        self._made: dict[str, Any] = {}

    def place(self, path: str, stage: Callable[[], memoryview]) -> memoryview:
        """Where the bytes of the tensor at `path` go: into the tensor itself if it can be made already, else into what
        `stage` gives."""
        tensor = self._by_path[path]
        made = None if self._borrows else adapter_for(tensor.type).empty(tensor)
        if made is None:
            self._data[path] = stage()
            return self._data[path]
        self._made[path], room = made
        return room

    def override(self, overrides: Mapping[str, Any]) -> list[str]:
        """Replace plain values by path patterns when the value is made; returns the patterns that match something."""
        plain = tree.unflatten(self.structure, lambda path: None, self.name)
        matching = [pattern for pattern, value in overrides.items() if override(plain, self.name, pattern, value)]
        self._overrides = {pattern: overrides[pattern] for pattern in matching}
        return matching

    def _tensor(self, path: str) -> Any:
        tensor = self._by_path.get(path)
        first = path if tensor is None or tensor.same_as is None else tensor.same_as
        if first not in self._made:
            kept = self._by_path.get(first)
            if kept is None or first not in self._data:
                raise DamagedError(f"the structure names a tensor {first!r} that is not there", where=self.name)
            adapter = adapter_for(kept.type)
            view = getattr(adapter, "view", None) if self._borrows else None
            self._made[first] = (view or adapter.build)(self._data[first], kept)
        return self._made[first]

    def value(self) -> Any:
        """See `milepost.training.items.Loaded`. To be asked for once: the tensors are the same the next time."""
        value = tree.unflatten(self.structure, self._tensor, self.name)
        for pattern, replacement in self._overrides.items():
            override(value, self.name, pattern, replacement)
        return value


def load(checkpoint: Checkpoint, allocate: Allocate, borrowing: Collection[str] = ()) -> dict[str, LoadedItem]:
    """Read every file of `checkpoint` and check every byte.

    Args:
        checkpoint: what to read.
        allocate: memory for the tensors of a file that cannot be read to where they will stay.
        borrowing: items whose objects copy the tensors they are given.

    Raises:
        DamagedError: anything differs from what was saved.
        StorageError: the storage refused.
    """
    manifest = checkpoint.manifest
    items = {
        name: LoadedItem(name, structure, manifest.tensors, name in borrowing)
        for name, structure in manifest.items.items()
    }
    room = Pages(READ_ROOM).view
    for file, found in checkpoint.files_of().items():
        image = partial(allocate, file, manifest.files[file].size)
        checkpoint.read_file(file, room, partial(_place, items, found, image))
    return items


def _place(
    items: Mapping[str, LoadedItem], found: Mapping[str, str], image: Callable[[], memoryview], key: str, span: Span
) -> memoryview | None:
    """Where the bytes of entry `key` of a file go. `found`: the path of each live entry; `image`: memory for the whole file."""
    path = found.get(key)
    item = items.get(item_of(path)) if path is not None else None
    if path is None or item is None:
        return None
    return item.place(path, lambda: image()[span.offset : span.offset + span.nbytes])


def choose(
    run: RunFolder,
    candidates: Sequence[Listed],
    allocate: Allocate,
    *,
    fall_back: bool,
    borrowing: Collection[str] = (),
    nearby: Nearby | None = None,
) -> tuple[Listed, Checkpoint, dict[str, LoadedItem], list[tuple[str, str]]]:
    """The first good one of `candidates`: its bytes match their digests, and its trained floats are finite.

    Args:
        run: the run.
        candidates: in the order of preference.
        allocate: memory for the state.
        fall_back: whether to try the next if one is damaged or not good.
        borrowing: see `load`.
        nearby: copies on this node's disk, which are tried first.

    Returns:
        The listing, the checkpoint, its items, and (folder, reason) for each that was passed over.

    Raises:
        DamagedError: none is good; the message says why each was passed over.
    """
    passed_over: list[tuple[str, str]] = []
    for one in candidates:
        if one.summary is not None and not one.summary.good and fall_back:
            passed_over.append((one.folder, one.summary.why_not_good or "not good"))
            continue
        copy = nearby.copy_of(one) if nearby is not None else None
        if copy is not None:
            try:
                checkpoint = Checkpoint(copy)
                return one, checkpoint, load(checkpoint, allocate, borrowing), passed_over
            except (DamagedError, NotFoundError, StorageError, FormatError) as error:
                passed_over.append((one.folder, f"the copy on this node, {error.message} ({copy.root})"))
                if nearby is not None and nearby.alone(one):
                    continue
        try:
            checkpoint = Checkpoint(run.storage.child(one.folder))
            if one.summary is None:
                one = one._replace(summary=checkpoint.manifest.summary)
            return one, checkpoint, load(checkpoint, allocate, borrowing), passed_over
        except (DamagedError, NotFoundError, StorageError, FormatError) as error:
            # What a newer milepost wrote is not damaged: to go on from before it would be to lose it.
            newer = isinstance(error, FormatError) and (error.found or "").startswith("format ")
            if newer or not fall_back:
                raise
            passed_over.append((one.folder, error.message + (f" ({error.where})" if error.where else "")))
    raise DamagedError(
        "no checkpoint of this run is good: " + "; ".join(f"{folder}: {reason}" for folder, reason in passed_over),
        where=run.where,
        hint="start again with resume='never', or name one to use as it is: resume='step=N'",
    )


def override(value: Any, name: str, pattern: str, replacement: Any) -> int:
    """Replace the plain values below item `name` whose path matches `pattern`, in place; ``*`` stands for anything within one
    level. Returns how many were replaced."""
    first, *levels = pattern.split("/")
    return _replace(value, levels, replacement) if first == name and levels else 0


def _replace(value: Any, levels: Sequence[str], replacement: Any) -> int:
    if isinstance(value, list):
        children = {str(number): number for number in range(len(value))}
    elif isinstance(value, dict):
        children = {paths.escape(key) if isinstance(key, str) else str(key): key for key in value}
    else:
        return 0
    count = 0
    for part, key in children.items():
        if fnmatchcase(part, levels[0]):
            if len(levels) > 1:
                count += _replace(value[key], levels[1:], replacement)
            else:
                value[key] = copy.deepcopy(replacement)
                count += 1
    return count


def put_back(items: Mapping[str, Item], loaded: Mapping[str, LoadedItem], overrides: Mapping[str, Any]) -> None:
    """Put a verified state into the live objects: all of it, or none.

    Raises:
        MismatchError: with a row for every difference; nothing was changed.
        UnknownItemError: an override that matches nothing.
    """
    rows = [
        Mismatch(name, "an item", "not given to Checkpointer")
        for name in loaded
        if name != RESERVED and name not in items
    ]
    matched: set[str] = set()
    for name, item in items.items():
        if name not in loaded:
            rows.append(Mismatch(name, "no such item", type(item).__name__))
            continue
        matched.update(loaded[name].override(overrides))
        rows += item.mismatches(loaded[name])
    if rows:
        raise MismatchError(
            "the checkpoint does not fit the objects of this script",
            rows=tuple(rows),
            hint="undo the change of the script, or start again with resume='never'",
        )
    for pattern in overrides:
        if pattern not in matched:
            raise UnknownItemError(
                f"override={{{pattern!r}: ...}} names no plain value of the checkpoint",
                hint="`milepost show REF` lists the paths; * stands for one level, as in optimizer/param_groups/*/lr",
            )
    # Those whose own code may refuse what it is given come first, and go back if one does.
    stateful = [item for item in items.values() if isinstance(item, StatefulItem)]
    before = [(item, copy.deepcopy(item.capture())) for item in stateful]
    try:
        for item in stateful:
            item.restore(loaded[item.name])
    except MismatchError:
        for item, state in before:
            with contextlib.suppress(Exception):
                item.object.load_state_dict(state)
        raise
    for name, item in items.items():
        if item not in stateful:
            item.restore(loaded[name])
