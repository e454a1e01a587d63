"""Files as they are: the functions of `os` before `milepost.auditing.foreign.redirect` puts others in their place."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator

_lstat, _stat, _mkdir, _replace, _remove, _scandir = os.lstat, os.stat, os.mkdir, os.replace, os.remove, os.scandir
_open = io.open


def mode(path: str) -> int | None:
    """What is there, a link followed; None if nothing is."""
    try:
        return _stat(path).st_mode
    except OSError:
        return None


def exists(path: str) -> bool:
    """Whether something is there, if only a link that leads nowhere."""
    try:
        _lstat(path)
    except OSError:
        return False
    return True


def is_folder(path: str) -> bool:
    """Whether a folder is there."""
    found = mode(path)
    return found is not None and found & 0o170000 == 0o040000


def make_folders(path: str) -> None:
    """Make a folder, and those above it."""
    if not is_folder(path):
        make_folders(os.path.dirname(path))
        _mkdir(path)


def move(source: str, target: str) -> None:
    """Give a file another path, be it on another file system."""
    try:
        _replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with _open(source, "rb") as file, _open(target, "wb") as copy:
            shutil.copyfileobj(file, copy)
        _remove(source)


def files_below(folder: str) -> Iterator[str]:
    """The paths of all files below a folder, if there is one."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if is_folder(here):
            with _scandir(here) as entries:
                for one in entries:
                    if one.is_dir(follow_symlinks=False):
                        waiting.append(one.path)
                    else:
                        yield one.path
