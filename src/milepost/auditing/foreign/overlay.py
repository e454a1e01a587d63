"""Keeps the files that a script saves in scratch: what it knows by some path is really at the same path below a *mirror*.

Files come in families: one folder, and names that differ by digits (``step-100.pt``, ``step-200.pt``). Once a script has
written one file of a family with ``torch.save``, or beside such a file, or as a binary file of its own, the whole family is
in scratch, and those of the person are neither seen nor touched. A folder that the script makes, numbers and saves into
(``step-100/``) is in scratch as a whole.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import sys
import sysconfig
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from milepost.auditing.evidence import is_own
from milepost.auditing.files import raw

SUFFIXES = {".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pkl", ".pickle", ".t7", ".tar"}
"""Of files that are taken for checkpoints when they are opened for writing."""
_STANDARD = str(Path(sysconfig.get_path("stdlib")).resolve()) + "/"
_SYSTEM = ("/dev/", "/proc/", "/sys/")


def family(path: str) -> str:
    """The family that the file or folder at an absolute path belongs to."""
    return re.sub(r"\d+", "#", path)


class Overlay:
    """Says where a file really is; see `milepost.auditing.files.redirect.Places`.

    Args:
        mirror: an existing folder.
        families: those that are in scratch from the beginning.
        folders: families of folders; everything that is written there is in scratch.
        beside: a folder that is left alone.
        tell: is told of a new ``family`` or ``folder``, of a folder that was ``made`` outside of scratch, and of a file that was
            ``moved`` (or copied) to a second path.
    """

    def __init__(
        self,
        mirror: str,
        families: Collection[str],
        folders: Collection[str],
        beside: str,
        tell: Callable[[str, Any], None],
    ) -> None:
        self.mirror = mirror
        self._passed_by = (*_SYSTEM, beside + os.sep)
        self._families, self._folders, self._tell = set(families), set(folders), tell
        self._made: set[str] = set()

    def name(self, path: Any) -> str | None:
        """The absolute path that the script knows a file by; None if this is no path."""
        try:
            here = os.path.abspath(os.fsdecode(path))
        except TypeError:
            return None
        return here[len(self.mirror) :] if here.startswith(self.mirror + os.sep) else here

    def twin(self, path: Any) -> str | None:
        name = self.name(path)
        return self.mirror + name if name is not None and raw.is_folder(self.mirror + name) else None

    def beside(self, path: Any) -> str:
        return f"{self.mirror}{self.name(path)}"

    def below(self, path: Any) -> list[str]:
        return []  # that is what `twin` has

    def hides(self, path: Any) -> bool:
        return self.holds(path)

    def holds(self, path: Any) -> bool:
        name = self.name(path)
        if name is None:
            return False
        known = family(name)
        if known in self._families:
            return True
        while "#" in (known := os.path.dirname(known)):  # a numbered folder takes along what is in it
            if known in self._families:
                return True
        return raw.exists(self.mirror + name) and not raw.is_folder(self.mirror + name)

    def where(self, path: Any) -> Any:
        if not self.holds(path):
            return path
        here = f"{self.mirror}{self.name(path)}"
        return os.fsencode(here) if isinstance(path, bytes) else here

    def cover(self, path: Any, *, beside: bool = False) -> Any:
        """From now on `path` is in scratch, and with `beside` what is written in its folder. Says where it is there."""
        name = self.name(path)
        if name is None or name.startswith(self._passed_by):
            return path
        folder = os.path.dirname(name)
        self._learn("family", self._families, family(name))
        if beside:
            self._learn("folder", self._folders, family(folder))
            if folder in self._made and "#" in os.path.basename(family(folder)):
                self._learn("family", self._families, family(folder))
        if raw.is_folder(folder):
            raw.make_folders(self.mirror + folder)
        return self.where(path)

    def for_writing(self, path: Any, *, binary: bool) -> Any:
        """In scratch if it may be part of a checkpoint."""
        name = self.name(path)
        if name is None or name.startswith(self._passed_by) or _is_special(name):
            return path
        if (
            self.holds(path)
            or SUFFIXES & set(Path(name).suffixes)
            or family(os.path.dirname(name)) in self._folders
            or (binary and _asked_by_the_script())
        ):
            return self.cover(path)
        return path

    def make_folder(self, path: Any) -> Any:
        name = self.name(path)
        if name is None or not self.holds(path):
            return path
        if raw.is_folder(os.path.dirname(name)):
            raw.make_folders(os.path.dirname(self.mirror + name))
        return self.where(path)

    def made(self, path: Any) -> None:
        name = self.name(path)
        if name is not None:
            self._made.add(name)
            self._tell("made", name)

    def moved(self, source: Any, target: Any, *, copied: bool = False) -> None:
        self._tell("moved", (self.name(source), self.name(target), copied))

    def spares(self, path: Any) -> bool:
        name = self.name(path)
        return name is not None and any(self.holds(one) for one in raw.files_below(name))

    def _learn(self, what: str, known: set[str], one: str) -> None:
        if one not in known:
            known.add(one)
            self._tell(what, one)


def _is_special(name: str) -> bool:
    mode = raw.mode(name)
    return mode is not None and not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))


def _asked_by_the_script() -> bool:
    """Whether the first frame that is neither here nor in the standard library is the script's own."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_between(frame.f_code.co_filename):
        frame = frame.f_back
    return is_own(frame.f_code.co_filename)


@functools.lru_cache(maxsize=10_000)
def _is_between(file: str) -> bool:
    if file.startswith(("<frozen", os.path.dirname(__file__))):
        return True
    return str(Path(file).resolve()).startswith(_STANDARD) and "-packages/" not in file
