"""Bringing a data set to the disk of the node, once a job and node: `stage`."""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import msgspec

from milepost.core.readjson import Unreadable, read_json
from milepost.errors import DiskFullError, FormatError, NotFoundError, StorageError
from milepost.slurm.job import node_local
from milepost.storage.base import storage_error

TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of archives that are unpacked, beside ``.zip``."""


class _Mark(msgspec.Struct):
    """What was staged, written when all of it is there."""

    source: str
    size: int
    mtime_ns: int


def stage(source: str | os.PathLike[str], to: str | os.PathLike[str] | None = None) -> Path:
    """Unpack an archive, or copy a file or folder, into `to`, unless it is there already; the path of what is there then.

    Several processes of a node may call it at once: one does it, the others wait. What a job that was killed left half done
    is begun anew.

    Args:
        source: ``.tar`` (also compressed), ``.zip``, or any file or folder.
        to: a folder on the node's disk; None for what the site gives the job (``SLURM_TMPDIR``, ``TMPDIR``).

    Raises:
        NotFoundError: there is no such source, or no folder of the node is known.
        FormatError: the archive cannot be unpacked, or wants to write outside of its folder.
        DiskFullError: there is less room than the source takes.
        StorageError: reading or writing failed.
    """
    origin = Path(os.path.abspath(source))
    folder = Path(to) if to is not None else node_local()
    if folder is None:
        raise NotFoundError(
            "no folder of this node is known", expected="TMPDIR or SLURM_TMPDIR", hint="pass --to FOLDER"
        )
    try:
        found = origin.stat()
    except OSError as error:
        raise NotFoundError("there is no such data", where=origin) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{_name(origin)}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _stage(origin, folder, _Mark(str(origin), _size(origin), found.st_mtime_ns))
    except OSError as error:
        raise storage_error(error, "stage the data", error.filename or folder) from error


def _stage(origin: Path, folder: Path, mark: _Mark) -> Path:
    target, marked = folder / _name(origin), folder / f".{_name(origin)}.staged"
    if target.exists() and marked.exists():
        try:
            if read_json(marked.read_bytes(), _Mark) == mark:
                return target
        except Unreadable:
            marked.unlink()  # its writer was killed
    free = shutil.disk_usage(folder).free
    if free < mark.size:
        raise DiskFullError(
            "there is no room for the data on this node",
            where=folder,
            expected=f"{mark.size / 1e9:.2f} GB free",
            found=f"{free / 1e9:.2f} GB",
            hint="choose another folder: --to FOLDER",
        )
    draft = folder / f".{_name(origin)}.draft"
    for old in (marked, draft, target):
        _remove(old)
    _bring(origin, draft)
    draft.rename(target)
    marked.write_bytes(msgspec.json.encode(mark))
    return target


def _bring(origin: Path, draft: Path) -> None:
    name = origin.name.lower()
    try:
        if name.endswith(TAR):
            with tarfile.open(origin) as archive:
                archive.extractall(draft, filter="data")  # which refuses what would leave the folder
        elif name.endswith(".zip"):
            with zipfile.ZipFile(origin) as packed:
                packed.extractall(draft)  # noqa: S202 - it takes what would leave the folder as a name within it
        elif origin.is_dir():
            shutil.copytree(origin, draft, symlinks=True)
        else:
            shutil.copyfile(origin, draft)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise FormatError("the archive cannot be unpacked", where=origin, found=error) from error
    except shutil.Error as error:
        raise StorageError("not all of the data could be copied", where=origin, found=error.args[0][0][2]) from error


def _name(origin: Path) -> str:
    """What it is called on the node: an archive by its name without the ending."""
    for ending in (*sorted(TAR, key=len, reverse=True), ".zip"):
        if origin.name.lower().endswith(ending) and len(origin.name) > len(ending):
            return origin.name[: -len(ending)]
    return origin.name


def _size(origin: Path) -> int:
    if not origin.is_dir():
        return origin.stat().st_size
    return sum(path.lstat().st_size for path in origin.rglob("*"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
