"""Has Python's functions for files ask somebody (`Places`) where a file is. Nothing is imported but the standard library."""

from __future__ import annotations

import builtins
import functools
import io
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from milepost.auditing.files import raw

_OF_ONE_PATH = (
    "stat", "lstat", "access", "utime", "chmod", "chown", "lchown", "truncate", "readlink", "remove", "unlink", "statvfs",
    "listxattr", "getxattr", "setxattr", "removexattr",
)  # fmt: skip


class Places(Protocol):
    """Knows which files and folders are in scratch, by the paths that the script uses."""

    def holds(self, path: Any) -> bool:
        """Whether `path` is in scratch, or would be if it existed."""

    def where(self, path: Any) -> Any:
        """Where to look for `path`: itself, unless it is in scratch."""

    def for_writing(self, path: Any, *, binary: bool) -> Any:
        """Where to write `path`."""

    def cover(self, path: Any) -> Any:
        """Where to move or copy something that is in scratch, so that it stays there."""

    def make_folder(self, path: Any) -> Any:
        """Where to make the folder `path`."""

    def made(self, path: Any) -> None:
        """A folder was made that is not in scratch."""

    def moved(self, source: Any, target: Any, *, copied: bool = False) -> None:
        """A file (or folder) in scratch has another path, beside the one it had if it was `copied`."""

    def hides(self, path: Any) -> bool:
        """Whether `path` is there, and the script is not to see it in its folder."""

    def twin(self, path: Any) -> str | None:
        """The folder in scratch that has some of what belongs into the folder `path`, if there is one."""

    def beside(self, path: Any) -> str:
        """Where that folder is, or would be."""

    def below(self, path: Any) -> list[str]:
        """Folders in scratch that stand somewhere below the folder `path`, whether or not that is there."""

    def spares(self, path: Any) -> bool:
        """Whether the folder `path` has files of the person that the script is not to see, let alone remove."""


def redirect(places: Places) -> None:
    """From now on, in this process and its forks."""
    _openers(places)
    _of_one_path(places)
    _of_two_paths(places)
    _of_folders(places)


def _replace(module: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put what `make` makes of a function in its place, in the sets by which `os` tells what it can do, too."""
    original = getattr(module, name)
    made = functools.wraps(original)(make(original))
    for group in (os.supports_dir_fd, os.supports_follow_symlinks, os.supports_fd, os.supports_effective_ids):
        if original in group:
            group.add(made)
    setattr(module, name, made)


def _openers(places: Places) -> None:
    def make(original: Any) -> Any:
        def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            writes = isinstance(mode, str) and set(mode) & set("wax+")
            here = places.for_writing(file, binary="b" in mode) if writes else places.where(file)
            return original(here, mode, *arguments, **options)

        return opened

    def make_low(original: Any) -> Any:
        def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> Any:
            if options.get("dir_fd") is not None:
                return original(path, flags, *arguments, **options)
            writes = flags & (os.O_WRONLY | os.O_RDWR)
            here = places.for_writing(path, binary=True) if writes else places.where(path)
            return original(here, flags, *arguments, **options)

        return opened

    _replace(builtins, "open", make)
    io.open = builtins.open
    _replace(os, "open", make_low)


def _of_one_path(places: Places) -> None:
    def make(original: Any) -> Any:
        def asked(path: Any, *arguments: Any, **options: Any) -> Any:
            here = path if options.get("dir_fd") is not None else places.where(path)
            return original(here, *arguments, **options)

        return asked

    for name in _OF_ONE_PATH:
        if hasattr(os, name):
            _replace(os, name, make)


def _of_two_paths(places: Places) -> None:
    """Of what is in scratch, the second path is there too."""

    def make_move(original: Any) -> Any:
        def moved(src: Any, dst: Any, **options: Any) -> None:
            twin = places.twin(src)
            if not (places.holds(src) or places.holds(dst)):
                original(src, dst, **options)
                if twin is not None:  # a folder some of whose files are in scratch
                    target = places.beside(dst)
                    raw.make_folders(os.path.dirname(target))
                    original(twin, target)
                    places.moved(src, dst)
                return
            if places.holds(src):
                original(places.where(src), places.cover(dst))
            else:
                raw.move(os.fsdecode(src), os.fsdecode(places.cover(dst)))
            places.moved(src, dst)

        return moved

    def make_copy(original: Any) -> Any:
        def copied(src: Any, dst: Any, *arguments: Any, **options: Any) -> Any:
            if not places.holds(src):
                return original(src, places.where(dst), *arguments, **options)
            original(places.where(src), places.cover(dst), *arguments, **options)
            places.moved(src, dst, copied=True)
            return dst

        return copied

    def make_link(original: Any) -> Any:
        def linked(src: Any, dst: Any, *arguments: Any, **options: Any) -> None:
            beside = os.path.join(os.path.dirname(os.path.abspath(os.fsdecode(dst))), os.fsdecode(src))
            if not places.holds(beside):
                original(src, places.where(dst), *arguments, **options)
                return
            original(src if not os.path.isabs(src) else places.where(src), places.cover(dst))
            places.moved(beside, dst, copied=True)

        return linked

    for name in ("rename", "replace"):
        _replace(os, name, make_move)
    _replace(os, "link", make_copy)
    _replace(os, "symlink", make_link)
    _replace(shutil, "copyfile", make_copy)


def _of_folders(places: Places) -> None:
    """A folder may be there and, with some of its files, in scratch too."""

    def both(path: Any) -> tuple[Any, str | None]:
        """Where a folder is, and where else."""
        twin = places.twin(path)
        if twin is None:
            return places.where(path), None
        if places.holds(path) or os.path.abspath(os.fsdecode(path)) == twin:
            return twin, None
        return path, twin

    def make_list(original: Any) -> Any:
        def listed(path: Any = ".") -> Any:
            here, twin = both(path)
            if twin is None:
                names = original(here)
                return [one for one in names if here is not path or not _is_hidden(places, path, one)]
            theirs = original(os.fsencode(twin) if isinstance(path, bytes) else twin)
            mine = [one for one in original(here) if not places.holds(os.path.join(path, one))]
            return mine + [one for one in theirs if one not in set(mine)]

        return listed

    def make_scan(original: Any) -> Any:
        def scanned(path: Any = ".") -> Any:
            here, twin = both(path)
            with original(here) as entries:
                mine = [one for one in entries if here is not path or not _is_hidden(places, path, one.name)]
            if twin is not None:
                known = {one.name for one in mine}
                with original(os.fsencode(twin) if isinstance(path, bytes) else twin) as entries:
                    mine += [one for one in entries if one.name not in known]
            return _Entries(mine)

        return scanned

    def make_remove(original: Any) -> Any:
        def removed(path: Any, *arguments: Any, **options: Any) -> Any:
            if options.get("dir_fd") is not None:
                original(path, *arguments, **options)
                return
            here, twin = both(path)
            inside = places.below(path)
            for one in [twin] * (twin is not None) + inside:
                original(one, *arguments, **options)
            if (here is path and places.spares(path)) or (inside and not raw.exists(os.fsdecode(path))):
                return
            original(here, *arguments, **options)

        return removed

    def make_make(original: Any) -> Any:
        def made(path: Any, *arguments: Any, **options: Any) -> None:
            if options.get("dir_fd") is not None:
                original(path, *arguments, **options)
                return
            here = places.make_folder(path)
            original(here, *arguments, **options)
            if here is path:
                places.made(path)

        return made

    _replace(os, "listdir", make_list)
    _replace(os, "scandir", make_scan)
    _replace(os, "rmdir", make_remove)
    _replace(os, "mkdir", make_make)
    _replace(shutil, "rmtree", make_remove)


def _is_hidden(places: Places, folder: Any, name: Any) -> bool:
    """Whether a name in a folder is one of the person's that the script is not to see."""
    return not isinstance(folder, int) and places.hides(os.path.join(folder, name))


class _Entries:
    """What `os.scandir` returns."""

    def __init__(self, entries: list[os.DirEntry[str]]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        return self._entries

    def __next__(self) -> os.DirEntry[str]:
        return next(self._entries)

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to close."""
