"""Folders of TensorFlow checkpoints: the file ``checkpoint`` in it says which there are and which is the latest."""

from __future__ import annotations

import re
from typing import Any

from milepost.core.source import TensorSource
from milepost.errors import NotFoundError
from milepost.formats import sstable
from milepost.formats.place import File, Folder
from milepost.formats.tf_bundle import open_bundle
from milepost.formats.tf_state import STATE, read_state

NAME = "a folder of TensorFlow checkpoints"
_NUMBER = re.compile(r".*?([0-9]+)")


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, Folder):
        return False
    if place.has(STATE) and place.file(STATE).head.lstrip().startswith((b"model_checkpoint_path", b"all_model_check")):
        return True
    return any(sstable.is_table(place.file(name)) for name in _indices(place))


def open_source(place: File | Folder) -> TensorSource:
    """The latest checkpoint of the folder, with the names of all in its metadata (``checkpoints``, the oldest first), and of those
    that are named in the folder's list and not there (``missing``).

    See `milepost.formats.detect.FormatModule`.
    """
    assert isinstance(place, Folder)
    present = [name.removesuffix(".index") for name in _indices(place)]
    state = read_state(place)
    if not present and state.latest is not None and place.has(state.latest):
        return open_bundle(place.file(state.latest))  # of the old format, which is refused by name
    if not present:
        raise NotFoundError(
            "the checkpoints that this folder names are not in it",
            where=place.where, expected=", ".join(f"{name}.index" for name in state.names[-3:]),
        )  # fmt: skip
    ordered = [name for name in checkpoints_in(place) if name in present]
    told: dict[str, Any] = {"checkpoints": ordered, "missing": [name for name in state.names if name not in present]}
    if ordered[-1] in state.times:
        told["time"] = state.times[ordered[-1]]
    return open_bundle(place.file(ordered[-1] + ".index"), told)


def checkpoints_in(place: Folder) -> list[str]:
    """The names of the checkpoints of the folder, the latest last; those that its list names and that are not there come first."""
    present = [name.removesuffix(".index") for name in _indices(place)]
    state = read_state(place)
    return [
        *(name for name in state.names if name not in present),
        *sorted(set(present).difference(state.names), key=_age),
        *(name for name in state.names if name in present),
    ]


def _indices(place: Folder) -> list[str]:
    return [name for name in place.names if name.endswith(".index") and place.has(name)]


def _age(name: str) -> tuple[int, str]:
    found = _NUMBER.fullmatch(name)
    return int(found[1]) if found and len(found[1]) < 20 else -1, name
