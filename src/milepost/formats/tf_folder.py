"""Folders of TensorFlow checkpoints: the file ``checkpoint`` in it says which there are and which is the latest."""

from __future__ import annotations

import os
import re
from typing import Any

from milepost.core.source import TensorSource
from milepost.errors import FormatError, NotFoundError
from milepost.formats import sstable
from milepost.formats.place import File, Folder
from milepost.formats.tf_bundle import open_bundle

NAME = "a folder of TensorFlow checkpoints"
STATE = "checkpoint"
LARGEST_STATE = 1024 * 1024

_LINE = re.compile(r'(all_)?model_checkpoint_paths?: *("(?:[^"\\\n]|\\.)*")')
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_NUMBER = re.compile(r".*?([0-9]+)")


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, Folder):
        return False
    if place.has(STATE) and place.file(STATE).head.lstrip().startswith((b"model_checkpoint_path", b"all_model_check")):
        return True
    return any(sstable.is_table(place.file(name)) for name in _indices(place))


def open_source(place: File | Folder) -> TensorSource:
    """The latest checkpoint of the folder, with the names of all in its metadata (``checkpoints``, the oldest first).

    See `milepost.formats.detect.FormatModule`.
    """
    assert isinstance(place, Folder)
    present = [name.removesuffix(".index") for name in _indices(place)]
    latest, named = _state(place) if place.has(STATE) else (None, [])
    if not present and latest is not None and place.has(latest):
        return open_bundle(place.file(latest))  # of the old format, which is refused by name
    if not present:
        raise NotFoundError(
            "the checkpoints that this folder names are not in it", where=place.where, expected=", ".join(named[-3:])
        )
    rest = sorted(set(present).difference(named), key=_age)
    ordered = rest + [name for name in named if name in present]
    chosen = latest if latest in present else ordered[-1]
    told: dict[str, Any] = {"checkpoints": ordered}
    return open_bundle(place.file(chosen + ".index"), told)


def _indices(place: Folder) -> list[str]:
    return [name for name in place.names if name.endswith(".index") and place.has(name)]


def _age(name: str) -> tuple[int, str]:
    found = _NUMBER.fullmatch(name)
    return int(found[1]) if found and len(found[1]) < 20 else -1, name


def _state(place: Folder) -> tuple[str | None, list[str]]:
    """The name of the latest checkpoint, and those of all, as the file tells them.

    Paths there are as the writer saw them, absolute ones among them: what counts is the name, and the folder is this one.
    """
    state = place.file(STATE)
    if state.size > LARGEST_STATE:
        raise FormatError("the list of checkpoints is impossibly long", where=state.where, found=f"{state.size} bytes")
    latest, every = None, []
    for line in state.read(0, state.size).decode("utf-8", "replace").splitlines():
        found = _LINE.fullmatch(line.strip())
        if found is None:
            continue
        name = os.path.basename(_unquoted(found[2]))
        if found[1]:
            every.append(name)
        else:
            latest = name
    return latest, every if latest is None or latest in every else [*every, latest]


def _unquoted(text: str) -> str:
    """A string of a text-format message: escapes as in C, of the bytes of UTF-8."""
    return _ESCAPE.sub(_unescaped, text[1:-1].encode()).decode("utf-8", "replace")


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[1]:
        return bytes([int(found[1], 8) & 0xFF])
    return bytes([int(found[2], 16)]) if found[2] else {b"n": b"\n", b"r": b"\r", b"t": b"\t"}.get(found[3], found[3])
