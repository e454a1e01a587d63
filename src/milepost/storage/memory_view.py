"""A disk in memory as seen from one of its folders: from paths to what they stand for."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from milepost.storage.disk import Disk, File, Folder, Link, Node, os_error
from milepost.storage.local import checked_path

_MOST_LINKS = 40  # as Linux: more symbolic links on one path are ELOOP


class _OnDisk(Protocol):
    _disk: Disk


_Self = TypeVar("_Self", bound=_OnDisk)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def guarded(method: Callable[Concatenate[_Self, _P], _R]) -> Callable[Concatenate[_Self, _P], _R]:
    """One operation at a time."""

    @functools.wraps(method)
    def one_at_a_time(self: _Self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with self._disk.guard:
            return method(self, *args, **kwargs)

    return one_at_a_time


class View:
    """`prefix` is the path of the folder from which `disk` is seen. A symbolic link is followed only where that is said."""

    def __init__(self, disk: Disk, prefix: str) -> None:
        self._disk, self._prefix = disk, prefix

    def _join(self, path: str) -> str:
        return "/".join(filter(None, (self._prefix, path)))

    def _walk(self, path: str, *, follow: bool = False, root: bool = False) -> tuple[Folder, str, Node | None]:
        """The folder that holds (or would hold) `path`, the name there, and what it stands for."""
        parts = self._join(checked_path(path, root=root)).split("/")[::-1]
        folder, name, links = self._disk.root, "", 0
        node: Node | None = folder
        while parts and parts != [""]:
            name = parts.pop()
            node = folder.names.get(name)
            if isinstance(node, Link) and (parts or follow):
                links += 1
                if links > _MOST_LINKS:
                    raise os_error(errno.ELOOP, path)
                parts += node.target.split("/")[::-1]
            elif parts:
                if not isinstance(node, Folder):
                    raise os_error(errno.ENOENT if node is None else errno.ENOTDIR, path)
                folder = node
        return folder, name, node

    def _node(self, path: str, *, follow: bool = False, root: bool = False) -> Node:
        node = self._walk(path, follow=follow, root=root)[2]
        if node is None:
            raise os_error(errno.ENOENT, path)
        return node

    def _folder(self, path: str) -> Folder:
        node = self._node(path, follow=True, root=True)
        if not isinstance(node, Folder):
            raise os_error(errno.ENOTDIR, path)
        return node

    def _file(self, path: str) -> File:
        node = self._node(path, follow=True)
        if not isinstance(node, File):
            raise os_error(errno.EISDIR, path)
        return node

    def _writable(self, path: str) -> File:
        file = self._file(path)
        if file.read_only:
            raise os_error(errno.EACCES, path)
        return file

    def _free_name(self, path: str) -> tuple[Folder, str]:
        folder, name, there = self._walk(path)
        if there is not None:
            raise os_error(errno.EEXIST, path)
        return folder, name
