"""Bringing a data set to the disk of the node, once for all jobs there: `stage`.

FOLDER/3f2a9c41d0b7e865/    for one source as it is now: what another job may be reading is never replaced
  mnist                     the data, which gets its name when all of it is there
  .staged                   written after it

"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import xxhash

from milepost.errors import DiskFullError, FormatError, NotFoundError, StorageError
from milepost.slurm.job import node_local
from milepost.storage.base import FULL, storage_error

TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of archives that are unpacked, beside ``.zip``."""
BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, NotImplementedError, RuntimeError,
)  # fmt: skip
"""What Python's readers of archives raise for those that are damaged, encrypted, or packed in a way they do not know."""
NO_ROOM = "remove what is not needed, or choose another folder: --to FOLDER"
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Another one each time the machine starts: what was written before that may be lost in part."""


def stage(source: str | os.PathLike[str], to: str | os.PathLike[str] | None = None) -> Path:
    """Unpack an archive, or copy a file or folder, into `to`, unless it is there already; the path of what is there then.

    Several processes of a node may call it at once: one does it, the others wait. What a job that was killed left half done
    is begun anew. A source that has changed is brought beside what was brought before.

    Args:
        source: ``.tar`` (also compressed), ``.zip``, or any file or folder.
        to: a folder on the node's disk; None for what the site gives the job (``SLURM_TMPDIR``, ``TMPDIR``), and if that is one
            for everybody, such as ``/tmp``, for a folder of this user's in it.

    Raises:
        NotFoundError: there is no such source, or no folder of the node is known.
        FormatError: the archive cannot be unpacked, or wants to write outside of its folder.
        DiskFullError: there is less room than the source takes.
        StorageError: reading or writing failed.
    """
    origin = Path(os.path.abspath(source))
    folder = Path(os.path.abspath(to)) if to is not None else _folder()
    try:
        name, size = _version(origin)
    except OSError as error:
        raise NotFoundError("there is no such data", where=origin) from error
    try:
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        with (place / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _stage(origin, size, place)
    except OSError as error:
        hints = [(code, NO_ROOM) for code in FULL]
        raise storage_error(error, "stage the data", error.filename or folder, hints=hints) from error


def _folder() -> Path:
    folder = node_local()
    if folder is None:
        raise NotFoundError(
            "no folder of this node is known",
            expected="TMPDIR or SLURM_TMPDIR",
            hint="pass --to FOLDER, or set TMPDIR before: milepost slurm script --module 'export TMPDIR=/local/disk'",
        )
    if not folder.stat().st_mode & stat.S_ISVTX:
        return folder
    # One for everybody: the same names are taken there by others, whose data nobody should train on.
    own = folder / f"milepost-{os.geteuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    found = own.lstat()
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        raise StorageError("that folder is somebody else's", where=own, hint="choose another one: --to FOLDER")
    return own


def _version(origin: Path) -> tuple[str, int]:
    """A name for the source as it is now, the same on all nodes; and its size in bytes."""
    paths = [origin, *origin.rglob("*")] if origin.is_dir() else [origin]
    found = [path.stat() if path is origin else path.lstat() for path in paths]
    size = sum(one.st_size for one in found if not stat.S_ISDIR(one.st_mode))
    told = f"{len(found)} {size} {max(one.st_mtime_ns for one in found)} {origin}"
    return xxhash.xxh3_64_hexdigest(os.fsencode(told)), size


def _stage(origin: Path, size: int, place: Path) -> Path:
    target, draft, mark = place / _name(origin), place / ".draft", place / ".staged"
    boot = BOOT.read_bytes()
    if mark.exists() and mark.read_bytes() == boot and target.exists():
        return target
    for old in (draft, target):
        _remove(old)
    try:
        _check_room(origin, size, place)
        _bring(origin, draft)
    except BaseException:
        _remove(draft)
        raise
    draft.rename(target)
    mark.write_bytes(boot)
    return target


def _check_room(origin: Path, nbytes: int, place: Path) -> None:
    if origin.suffix.lower() == ".zip":
        with _reading(origin), zipfile.ZipFile(origin) as packed:
            nbytes = sum(one.file_size for one in packed.infolist())
    free = shutil.disk_usage(place).free
    if free < nbytes:
        raise DiskFullError(
            "there is no room for the data on this node",
            where=place,
            expected=f"{nbytes / 1e9:.2f} GB free",
            found=f"{free / 1e9:.2f} GB",
            hint=NO_ROOM,
        )


def _bring(origin: Path, draft: Path) -> None:
    name = origin.name.lower()
    with _reading(origin):
        if name.endswith(TAR):
            with tarfile.open(origin) as archive:
                archive.extractall(draft, filter="data")  # which refuses what would leave the folder
                while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                    pass  # the checksum of what was compressed comes last
        elif name.endswith(".zip"):
            with zipfile.ZipFile(origin) as packed:
                packed.extractall(draft)  # noqa: S202 - it takes what would leave the folder as a name within it
        elif origin.is_dir():
            shutil.copytree(origin, draft, symlinks=True)
        else:
            shutil.copyfile(origin, draft)


@contextlib.contextmanager
def _reading(origin: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise FormatError("the archive cannot be unpacked", where=origin, found=error) from error
    except shutil.Error as error:  # which is an OSError
        raise StorageError("not all of the data could be copied", where=origin, found=error.args[0][0][2]) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # from gzip or bz2; an offset that cannot be
            raise
        raise FormatError("the archive cannot be unpacked", where=origin, found=error) from error


def _name(origin: Path) -> str:
    """What it is called on the node: an archive by its name without the ending."""
    for ending in (*sorted(TAR, key=len, reverse=True), ".zip"):
        if origin.name.lower().endswith(ending) and len(origin.name) > len(ending):
            return origin.name[: -len(ending)]
    return origin.name


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):  # data is often write-protected, and copied as it is
            Path(folder).chmod(0o700)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
