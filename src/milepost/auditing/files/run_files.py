"""Files below the run directories of an audited script: what Python opens, lists or removes there is in scratch.

What else a script keeps in its run directory (a log, a configuration) then is as it was when a checkpoint was taken, too, and
what the person has there stays as it is. This module is imported before the script begins, and imports little.
"""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

from milepost.auditing.files import raw
from milepost.auditing.files.redirect import redirect
from milepost.folder import names
from milepost.ops.redirected import ASKED, FILE, MADE, STARTED, Place, locate, reads_own, tell

_OWN = {names.RUN, names.ATTEMPTS, names.TAGS, "latest", "best"}
_PASSED_BY = (
    "/dev/", "/proc/", "/sys/", *{f"{sysconfig.get_path(name)}/" for name in ("stdlib", "purelib", "platlib")},
)  # fmt: skip


_FOLLOWED = re.compile(r"(python|pypy)[\d.]*|milepost|uv|poetry|conda|torchrun|accelerate")
"""Programs that run Python, which is led to scratch by itself."""


def is_own(rest: str) -> bool:
    """Whether what follows the path of a run directory is made by milepost."""
    name = rest.split("/")[1] if rest.startswith("/") else ""
    return name in _OWN or names.parse_step(name) is not None


class RunFiles:
    """See `milepost.auditing.files.redirect.Places`.

    Files of the person's that are in no run that is hidden (it is an input, or there is none yet), or that are ``given``, are read
    where they stand; before they are written to, they are copied.

    Args:
        told: the file that says what this process is to do.
    """

    def __init__(self, told: str) -> None:
        spec: dict[str, Any] = json.loads(Path(told).read_bytes())
        inside = (spec[name] + os.sep for name in ("runs", "log", "saved") if spec.get(name))
        self._passed_by = (*_PASSED_BY, *inside)
        self._given = set(spec.get("given", ()))
        self._opened = {os.path.join(spec["runs"], name): real for name, real in spec.get("opened", {}).items()}
        """Scratch -> real run directory."""
        self._created: list[str] = []
        """What the first process, which does not know yet what runs there will be, made outside of scratch."""
        self._here = threading.local()

    def _locate(self, path: Any) -> Place | None:
        if isinstance(path, int) or getattr(self._here, "busy", False):
            return None
        try:
            name = os.path.abspath(os.fsdecode(path))
        except (TypeError, ValueError):
            return None
        if name.startswith(self._passed_by):
            return None
        self._here.busy = True
        try:
            return locate(name)
        finally:
            self._here.busy = False

    def _stays(self, place: Place | None) -> bool:
        """Whether a path means what the person has there."""
        if place is None:
            return True
        real = place.real + place.rest
        if not raw.exists(real) or (raw.exists(place.path) and not raw.is_folder(real)):
            return False
        if not place.hidden or real in self._given:
            return True
        if not is_own(place.rest) and not raw.is_folder(real):
            tell(ASKED, (FILE, real))
        return False

    def holds(self, path: Any) -> bool:
        return not self._stays(self._locate(path))

    def where(self, path: Any) -> Any:
        place = self._locate(path)
        if place is None or self._stays(place):
            return path
        if is_own(place.rest) and not place.is_input:
            reads_own(place)
        return os.fsencode(place.path) if isinstance(path, bytes) else place.path

    def for_writing(self, path: Any, *, binary: bool) -> Any:
        place = self._locate(path)
        if place is None:
            if not isinstance(path, int) and not raw.exists(os.fsdecode(path)):
                self._note(os.path.abspath(os.fsdecode(path)))
            return path
        if self._stays(place):
            self._make_parents(place)
            raw.copy(place.real + place.rest, place.path)
        elif raw.is_folder(os.path.dirname(place.real + place.rest)):
            self._make_parents(place)
        return os.fsencode(place.path) if isinstance(path, bytes) else place.path

    def cover(self, path: Any) -> Any:
        return self.for_writing(path, binary=True)

    def make_folder(self, path: Any) -> Any:
        place = self._locate(path)
        if place is None:
            return path
        if raw.is_folder(os.path.dirname(place.real + place.rest)):
            self._make_parents(place)
        return os.fsencode(place.path) if isinstance(path, bytes) else place.path

    def made(self, path: Any) -> None:
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(self._passed_by):
            tell(MADE, (FILE, name))
            self._note(name)

    def _note(self, name: str) -> None:
        if not (self._opened or name.startswith(self._passed_by)):
            self._created.append(name)

    def moved(self, source: Any, target: Any, *, copied: bool = False) -> None:
        """Nothing is to be told."""

    def twin(self, path: Any) -> str | None:
        place = self._locate(path)
        if place is None:
            return None
        if not (place.rest or place.is_input):
            reads_own(place)
        return place.path if raw.is_folder(place.path) else None

    def beside(self, path: Any) -> str:
        place = self._locate(path)
        return os.path.abspath(os.fsdecode(path)) if place is None else place.path

    def hides(self, path: Any) -> bool:
        place = self._locate(path)
        return place is not None and self.holds(path) and not raw.exists(place.path)

    def below(self, path: Any) -> list[str]:
        inside = os.path.abspath(os.fsdecode(path)) + os.sep
        return [scratch for scratch, real in self._opened.items() if real.startswith(inside) and raw.exists(scratch)]

    def spares(self, path: Any) -> bool:
        if self._locate(path) is not None:
            return True
        return any(self._locate(folder) is not None for folder in raw.folders_below(os.fsdecode(path)))

    def _make_parents(self, place: Place) -> None:
        raw.make_folders(os.path.dirname(place.path))

    def opens(self, directory: str, scratch: str) -> None:
        """A run is opened at `directory` and stands at `scratch`: take along what the script had made there before."""
        created = [os.path.realpath(path) for path in self._created]
        for path in created:
            if path == directory or path.startswith(directory + os.sep):
                target = scratch + path[len(directory) :]
                if raw.is_folder(path):
                    raw.make_folders(target)
                elif raw.exists(path):
                    raw.make_folders(os.path.dirname(target))
                    raw.move(path, target)
        for path in reversed(created):
            if f"{directory}{os.sep}".startswith(path + os.sep) or path.startswith(directory + os.sep):
                raw.remove_folder(path)
        self._created.clear()

    def started(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A program is started: one that is no Python is not led to scratch."""
        words = [word for text in _command(event, arguments) for word in re.split(r"[\s;&|'\"]+", text) if word]
        if not any(_FOLLOWED.fullmatch(os.path.basename(word)) for word in words):
            for word in words[1:]:
                place = self._locate(word)
                if place is not None and not place.is_input:
                    tell(STARTED, (words[0], word))


def _command(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """The words of a command, or texts that hold some, of an audit event; nothing where it is about something else."""
    if event not in ("subprocess.Popen", "os.system", "os.posix_spawn"):
        return []
    found = arguments[0] if event == "os.system" else arguments[1]
    return [os.fsdecode(one) for one in ([found] if isinstance(found, (str, bytes, os.PathLike)) else found)]


_files: list[RunFiles] = []


def redirect_runs(told: str) -> None:
    """From now on, in this process and its forks, as the file `told` says."""
    if not _files:
        _files.append(RunFiles(told))
        redirect(_files[0])
        sys.addaudithook(_files[0].started)


def opens(directory: str, scratch: str) -> None:
    """See `RunFiles.opens`; nothing where files are not redirected."""
    for one in _files:
        one.opens(directory, scratch)


def where(file: Any, writes: bool) -> Any:
    """Where a library that opens files without Python's help finds one."""
    if not _files or not isinstance(file, (str, bytes, os.PathLike)):
        return file
    return _files[0].for_writing(file, binary=True) if writes else _files[0].where(file)
