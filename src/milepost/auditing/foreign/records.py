"""What a watched process is told, and what it writes down: one line of JSON per event."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from milepost.auditing.records import Head, Key, Seen

EARLY = "ended-early"
"""The file in the folder of logs that says that a script was ended before its time."""
END = "the end"
"""The phase of the moment at which a script ends."""

STATEFUL = ("module", "metric", "optimizer", "scheduler", "scaler", "generator")
"""Kinds of objects that a checkpoint has to hold."""

REDIRECTED = "safetensors."
"""How those savers begin, beside ``torch.save``, whose files are kept in scratch."""


class Spec(msgspec.Struct, omit_defaults=True):
    """What a process is to do.

    `mirror` is where files are that the script saves, `log` takes what is written down, `families` and `folders` are known from
    earlier processes (see `milepost.auditing.foreign.overlay`), `seed` is that of all libraries at first. The script is ended
    after `moments` moments or `seconds`; with `kill`, by SIGKILL before the first step after that which saved, once so
    many steps were made. `saver` is the library that saves.
    """

    mirror: str
    log: str
    cwd: str
    seed: int
    families: list[str] = []
    folders: list[str] = []
    moments: int | None = None
    seconds: float | None = None
    kill: int | None = None
    saver: str = "torch"


class Save(msgspec.Struct, omit_defaults=True):
    """A call of ``torch.save``: where to, after which step, digests of what it was given, and whose global random state that
    holds."""

    path: str
    key: Key
    leaves: dict[str, str] = {}
    random: list[str] = []


class Line(msgspec.Struct, omit_defaults=True):
    """One event: a moment before an optimizer's step; a save; a file that is loaded, and whether it is the person's own; a file
    that was moved or, if the third says so, copied; a folder that was made outside of scratch; a family of files that is in
    scratch from then on, or a folder for what is written there; a function that saves and is no ``torch.save``; that the
    process kills itself."""

    seen: Seen | None = None
    save: Save | None = None
    load: tuple[str, bool] | None = None
    moved: tuple[str, str, bool] | None = None
    made: str | None = None
    family: str | None = None
    folder: str | None = None
    other: str | None = None
    killed: bool | None = None


class Log(NamedTuple):
    """What one process wrote down."""

    head: Head
    lines: list[Line]

    @property
    def seen(self) -> list[Seen]:
        """The moments."""
        return [line.seen for line in self.lines if line.seen is not None]

    @property
    def saves(self) -> list[Save]:
        """What was saved."""
        return [line.save for line in self.lines if line.save is not None]


def read(path: Path) -> Log:
    """A log, up to where its process ended."""
    lines = path.read_bytes().split(b"\n")
    decode = msgspec.json.Decoder(Line).decode
    return Log(msgspec.json.decode(lines[0], type=Head), [decode(line) for line in lines[1:-1]])


def steps_of(seen: Sequence[Seen]) -> list[Seen]:
    """The moments of steps, without that of the end."""
    return [one for one in seen if one.key.phase != END]
