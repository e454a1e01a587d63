"""Files that a script writes, wherever they are: what Python opens for writing, or renames, is written down."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

WRITTEN = "written"
"""The file in the folder of logs with a path a line."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
_PASSED_BY = ("/dev/", "/proc/", "/sys/")


class Writes:
    """Begins to write down what this process writes; that cannot be ended.

    Args:
        log: the folder of logs.
        scratch: what is below this folder is passed by.
    """

    def __init__(self, log: str, scratch: str) -> None:
        os.makedirs(log, exist_ok=True)
        self._fd = os.open(os.path.join(log, WRITTEN), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._passed_by = (*_PASSED_BY, scratch + os.sep)
        self._seen: set[str] = set()
        self._here = threading.local()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & _WRITES):
                return
        elif event == "os.rename":
            path = arguments[1]
        else:
            return
        if isinstance(path, (str, bytes, os.PathLike)) and not getattr(self._here, "busy", False):
            self._here.busy = True
            try:
                self._note(os.path.abspath(os.fsdecode(path)))
            finally:
                self._here.busy = False

    def _note(self, path: str) -> None:
        if path not in self._seen and not path.startswith(self._passed_by) and "/__pycache__/" not in path:
            self._seen.add(path)
            os.write(self._fd, os.fsencode(path) + b"\n")


def read_written(log: Path) -> set[Path]:
    """The files that a process wrote, as far as they are still there."""
    path = log / WRITTEN
    if not path.exists():
        return set()
    found = (Path(os.fsdecode(line)) for line in path.read_bytes().splitlines())
    return {one for one in found if one.is_file()}
