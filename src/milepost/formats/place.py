"""Files and folders that nobody vouches for: read only, within bounds, and never outside the folder that was named.

What a person names is opened wherever it leads. What a *file* names (a shard, external data) has to lie in that file's own folder:
`Folder.file` refuses everything else.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from milepost.errors import DamagedError, FormatError, NotFoundError, UnsafeContentError
from milepost.storage.base import storage_error

HEAD = 4096
"""Bytes of a file that are looked at to recognise it."""
MOST_NAMES = 100_000
"""Names in a folder that are looked at."""
LONGEST_NAME = 1024
"""Characters of a name that a file gives for another one."""

_HUB_BLOB = re.compile(r"\.\./\.\./blobs/[0-9a-f]{40,64}")
"""Where the links in a snapshot folder of the Hugging Face cache lead: into the same download."""


class Readable(Protocol):
    """Bytes at offsets: a file, a part of one, or memory."""

    @property
    def where(self) -> str:
        """What it is called, for people."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly the bytes ``[offset, offset + size)``.

        Raises:
            FormatError: there are not so many.
            DamagedError: the file was changed meanwhile.
            StorageError: the storage refused.
        """

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` (bytes) from `offset`; raises as `read` does."""


class File:
    """One regular file. It is opened anew for every read, so that there is nothing to close, and must stay the same file.

    Args:
        path: where it is; links are followed.

    Raises:
        NotFoundError: there is nothing.
        FormatError: a folder, a pipe, a device ...
        StorageError: the storage refused.
    """

    def __init__(self, path: str) -> None:
        self.where = path
        try:
            found = os.stat(path)
        except FileNotFoundError:
            raise NotFoundError("there is no such file", where=path) from None
        except OSError as error:
            raise storage_error(error, "look at the file", path) from error
        if not stat.S_ISREG(found.st_mode):
            raise FormatError("this is not a regular file", where=path, found=_kind(found.st_mode))
        self.size = found.st_size
        self.names = found.st_nlink
        self._identity = _identity(found)
        self.memo: dict[type, object] = {}
        """What was found out about it while its format was looked for."""

    def __repr__(self) -> str:
        return f"File({self.where!r})"

    @property
    def name(self) -> str:
        """Its name without the folder."""
        return os.path.basename(self.where)

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD` bytes, or all there are."""
        return self.read(0, min(self.size, HEAD))

    @cached_property
    def folder(self) -> Folder:
        """The folder it is in, for the files that it names."""
        return Folder(os.path.dirname(self.where) or ".")

    def read(self, offset: int, size: int) -> bytes:
        check_range(self, offset, size)  # before anything is allocated
        out = bytearray(size)
        self.read_into(offset, memoryview(out))
        return bytes(out)

    def read_into(self, offset: int, out: memoryview) -> None:
        check_range(self, offset, len(out))
        with self.opened() as fd:
            while out:
                got = os.preadv(fd, [out], offset)
                if not got:
                    raise _changed(self.where)
                out, offset = out[got:], offset + got

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the file for reading; raises as `read` does, also for what fails while it is open."""
        try:
            # A pipe put in its place would be waited for without NONBLOCK.
            fd = os.open(self.where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                if _identity(os.fstat(fd)) != self._identity:
                    raise _changed(self.where)
                yield fd
            finally:
                os.close(fd)
        except OSError as error:
            raise storage_error(error, "read the file", self.where) from error


class Window:
    """A part of something readable, as if it were all there is."""

    def __init__(self, inner: Readable, offset: int, size: int, where: str | None = None) -> None:
        check_range(inner, offset, size)
        self.where = where or inner.where
        self.size = size
        self.offset = offset
        self._inner, self._offset = inner, offset

    def read(self, offset: int, size: int) -> bytes:
        check_range(self, offset, size)
        return self._inner.read(self._offset + offset, size)

    def read_into(self, offset: int, out: memoryview) -> None:
        check_range(self, offset, len(out))
        self._inner.read_into(self._offset + offset, out)


class Ahead:
    """Something readable, for many small reads front to back: pieces of at least `piece` bytes are read, and the last kept."""

    def __init__(self, inner: Readable, piece: int = 4096) -> None:
        self.where, self.size = inner.where, inner.size
        self._inner, self._piece = inner, piece
        self._start, self._kept = 0, b""

    def read(self, offset: int, size: int) -> bytes:
        at = offset - self._start
        if 0 <= at <= at + size <= len(self._kept):
            return self._kept[at : at + size]
        check_range(self, offset, size)
        if size >= self._piece:
            return self._inner.read(offset, size)
        self._start, self._kept = offset, self._inner.read(offset, min(self._piece, self.size - offset))
        return self._kept[:size]

    def read_into(self, offset: int, out: memoryview) -> None:
        self._inner.read_into(offset, out)


class Memory:
    """Bytes that are in memory already."""

    def __init__(self, data: bytes, where: str) -> None:
        self.where = where
        self.size = len(data)
        self._data = data

    def read(self, offset: int, size: int) -> bytes:
        check_range(self, offset, size)
        return self._data[offset : offset + size]

    def read_into(self, offset: int, out: memoryview) -> None:
        check_range(self, offset, len(out))
        out[:] = self._data[offset : offset + len(out)]


class Folder:
    """One folder, and the files in it that other files name.

    Raises:
        as `File` does.
    """

    def __init__(self, path: str) -> None:
        self.where = path
        try:
            with os.scandir(path) as entries:
                self.names = sorted(entry.name for entry, _ in zip(entries, range(MOST_NAMES), strict=False))
        except FileNotFoundError:
            raise NotFoundError("there is no such folder", where=path) from None
        except NotADirectoryError:
            raise FormatError("this is not a folder", where=path) from None
        except OSError as error:
            raise storage_error(error, "list the folder", path) from error

    def __repr__(self) -> str:
        return f"Folder({self.where!r})"

    def has(self, name: str) -> bool:
        """Whether there is a file (or a link to one) called `name`, a path relative to this folder that may come from a file."""
        return _fault(name) is None and os.path.isfile(os.path.join(self.where, name))

    def file(self, name: str, named_by: str | None = None) -> File:
        """The file `name`, a path relative to this folder.

        Args:
            name: as some file has it, and not trusted.
            named_by: that file, for errors.

        Raises:
            UnsafeContentError: the name leads, or could lead, out of this folder.
            NotFoundError, FormatError, StorageError: as `File`.
        """
        return File(self._inside(name, named_by))

    def folder(self, name: str, named_by: str | None = None) -> Folder:
        """The folder `name`, on the same terms as `file`."""
        return Folder(self._inside(name, named_by))

    def _inside(self, name: str, named_by: str | None) -> str:
        fault = _fault(name)
        if fault is not None:
            raise UnsafeContentError(
                f"a file is named whose name {fault}",
                where=named_by or self.where,
                expected="a plain name, or a path below the same folder",
                found=ascii(name[:100]),
            )
        path = os.path.join(self.where, name)
        if os.path.islink(path) and _HUB_BLOB.fullmatch(os.readlink(path)):
            blobs = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(self.where))), "blobs")
            if os.path.dirname(os.path.realpath(path)) == blobs:
                return path
        inside, here = os.path.realpath(path), os.path.realpath(self.where)
        if os.path.commonpath([inside, here]) != here:
            raise UnsafeContentError(
                "a link leads out of the checkpoint's folder",
                where=path,
                found=f"a link to {inside}",
                hint="replace the link by the file it leads to, if you trust it",
            )
        return path


def look(path: str) -> File | Folder:
    """What a person named: a file, a folder, or the beginning of the names of a TensorFlow checkpoint.

    Raises:
        as `File` does.
    """
    if os.path.isdir(path):
        return Folder(path)
    if not os.path.lexists(path) and os.path.isfile(path + ".index"):
        return File(path + ".index")
    return File(path)


def read_array(source: Readable, offset: int, size: int) -> npt.NDArray[np.uint8]:
    """The bytes ``[offset, offset + size)`` as an array of their own; raises as `Readable.read` does."""
    check_range(source, offset, size)
    out: npt.NDArray[Any] = np.empty(size, np.uint8)
    source.read_into(offset, out.data)
    return out


def check_range(source: Readable, offset: int, size: int) -> None:
    """Raise `FormatError` unless the bytes ``[offset, offset + size)`` are there."""
    if not (offset >= 0 and size >= 0 and offset + size <= source.size):
        raise FormatError(
            "the file is cut short, or says that it is longer than it is",
            where=source.where,
            expected=f"{size} bytes at offset {offset}",
            found=f"{source.size} bytes in all",
        )


def _fault(name: str) -> str | None:
    if not name or len(name) > LONGEST_NAME:
        return "is empty" if not name else f"has {len(name)} characters"
    if "\0" in name or "\\" in name:
        return "has a NUL or backslash in it"
    if name.startswith("/"):
        return "is an absolute path"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "has an empty part, . or .. in it"
    return None


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _changed(where: str) -> DamagedError:
    return DamagedError("the file was changed while it was being read", where=where, hint="open it again")
