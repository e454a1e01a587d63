"""The file ``checkpoint`` in a folder of TensorFlow checkpoints: which there are, when they were saved, and which is the latest
(tensorflow/python/training/checkpoint_state.proto, as text)."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import NamedTuple

from milepost.errors import FormatError
from milepost.formats.place import Folder

STATE = "checkpoint"
LARGEST = 1024 * 1024

_LINE = re.compile(
    r'(?:(all_)?model_checkpoint_paths?: *("(?:[^"\\\n]|\\.)*")|all_model_checkpoint_timestamps: *([0-9.e+-]{1,40}))'
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)


class State(NamedTuple):
    """The name of the latest checkpoint (None if none is said to be), those of all, the oldest first, and by name when it was saved
    (ISO 8601), as far as the file tells."""

    latest: str | None
    names: list[str]
    times: dict[str, str]


def read_state(place: Folder) -> State:
    """What the file tells; nothing where there is none.

    Paths there are as the writer saw them, absolute ones among them: what counts is the name, and the folder is this one.

    Raises:
        FormatError: it is far too long.
    """
    if not place.has(STATE):
        return State(None, [], {})
    state = place.file(STATE)
    if state.size > LARGEST:
        raise FormatError("the list of checkpoints is impossibly long", where=state.where, found=f"{state.size} bytes")
    latest, names, times = None, [], []
    for line in state.read(0, state.size).decode("utf-8", "replace").splitlines():
        found = _LINE.fullmatch(line.strip())
        if found is None:
            continue
        if found[3]:
            times.append(_time(found[3]))
        elif found[1]:
            names.append(os.path.basename(_unquoted(found[2])))
        else:
            latest = os.path.basename(_unquoted(found[2]))
    known = {name: time for name, time in zip(names, times, strict=False) if time} if len(times) == len(names) else {}
    if latest is not None:
        names = [*(name for name in names if name != latest), latest]
    return State(latest, names, known)


def _time(text: str) -> str | None:
    try:
        return datetime.fromtimestamp(float(text), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _unquoted(text: str) -> str:
    """A string of a text-format message: escapes as in C, of the bytes of UTF-8."""
    return _ESCAPE.sub(_unescaped, text[1:-1].encode()).decode("utf-8", "replace")


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[1]:
        return bytes([int(found[1], 8) & 0xFF])
    return bytes([int(found[2], 16)]) if found[2] else {b"n": b"\n", b"r": b"\r", b"t": b"\t"}.get(found[3], found[3])
