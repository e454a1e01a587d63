"""Files as they are: the functions of `os` before `milepost.auditing.files.redirect` puts others in their place."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
from collections.abc import Iterator

_lstat, _stat, _mkdir, _replace, _scandir = os.lstat, os.stat, os.mkdir, os.replace, os.scandir
_remove, _rmdir = os.remove, os.rmdir
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
        copy(source, target)
        _remove(source)


def copy(source: str, target: str) -> None:
    """Copy a file, or make an empty folder where there is one."""
    if is_folder(source):
        make_folders(target)
    else:
        with _open(source, "rb") as file, _open(target, "wb") as there:
            shutil.copyfileobj(file, there)


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


def folders_below(folder: str) -> Iterator[str]:
    """The paths of all folders below a folder, if there is one."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if is_folder(here):
            with _scandir(here) as entries:
                found = [one.path for one in entries if one.is_dir(follow_symlinks=False)]
            yield from found
            waiting += found


def remove_folder(path: str) -> None:
    """Remove a folder if it is there, and empty."""
    with contextlib.suppress(OSError):
        _rmdir(path)
