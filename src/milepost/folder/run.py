"""A run directory: its identity and the checkpoints in it."""

from __future__ import annotations

import errno
import secrets
import time
from typing import NamedTuple

import msgspec

from milepost.core.manifest import FORMAT, SUMMARY_BYTES, Summary, check_version, decode_summary
from milepost.core.readjson import Unreadable, read_json
from milepost.errors import FormatError, MilepostError, NotFoundError
from milepost.folder import names
from milepost.storage.base import Storage, storage_error


class BestBy(msgspec.Struct, frozen=True):
    """Which metric decides what is best, and whether the smallest ("min") or largest ("max") value is."""

    metric: str
    mode: str


class RunInfo(msgspec.Struct, omit_defaults=True):
    """``milepost.json``. `run` is random and stays with the run however it is moved or renamed."""

    format: str
    run: str
    created: str
    best: BestBy | None = None


class Listed(NamedTuple):
    """A checkpoint folder as a listing sees it: by its summary alone, or by why that cannot be read. `foreign`:
    another run wrote it, and somebody copied it here; it is no part of this run's history."""

    folder: str
    step: int
    summary: Summary | None
    problem: str | None = None
    foreign: bool = False

    @property
    def current(self) -> bool:
        """Whether it stands under its own name, not superseded."""
        return names.is_current(self.folder)


class RunFolder:
    """One run directory. Holds no state of its own but the identity: what is on disk is what there is."""

    def __init__(self, storage: Storage, info: RunInfo) -> None:
        self.storage = storage
        self.info = info

    @property
    def where(self) -> str:
        """The run directory, for people."""
        return self.storage.root

    @classmethod
    def open(cls, storage: Storage) -> RunFolder:
        """Open an existing run.

        Raises:
            NotFoundError: there is no run.
            FormatError: it belongs to a newer milepost, or `milepost.json` is not one.
        """
        where = f"{storage.root}/{names.RUN}"
        try:
            data = storage.read(names.RUN)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                "this is not a run directory",
                where=storage.root,
                expected=f"a folder with {names.RUN}",
                hint="`milepost ls FOLDER` lists the runs below a folder",
            ) from None
        except OSError as error:
            raise storage_error(error, "read the run", where) from error
        try:
            info = read_json(data, RunInfo)
        except Unreadable as error:
            raise FormatError("the description of the run cannot be read", where=where, found=error) from error
        check_version(info.format, where)
        return cls(storage, info)

    @classmethod
    def create(cls, storage: Storage) -> RunFolder:
        """Make the run directory if need be, and open it. Two processes may do so at once.

        Where only the description is lost, the checkpoints say whose they are, lest they count as another run's and training begins
        anew.

        Raises:
            StorageError: not writable, full, or a file is in the way.
        """
        try:
            storage.make_root()
            for folder in (names.ATTEMPTS, names.TAGS):
                make_folder_if_missing(storage, folder)
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            info = RunInfo(FORMAT, "", created)
            lost = {one.summary.run for one in cls(storage, info).checkpoints() if one.summary is not None}
            info.run = lost.pop() if len(lost) == 1 else secrets.token_hex(8)
            try:
                storage.write(names.RUN, msgspec.json.format(msgspec.json.encode(info), indent=1))
            except FileExistsError:
                return cls.open(storage)
            storage.sync_dir()
        except OSError as error:
            in_the_way = "a file is where the run directory should be; move it or choose another run directory"
            hints = [(errno.EEXIST, in_the_way), (errno.ENOTDIR, in_the_way)]
            raise storage_error(error, "make the run directory", storage.root, hints=hints) from error
        return cls(storage, info)

    def save_info(self) -> None:
        """Make the description of the run durable as it stands now."""
        data = msgspec.json.format(msgspec.json.encode(self.info), indent=1)
        self.storage.write(names.RUN, data, replace=True)
        self.storage.sync_dir()

    def checkpoints(self) -> list[Listed]:
        """All checkpoint folders, ordered by step, then attempt. Reads one block of each."""
        found = [self.look(name) for name in self.storage.list() if names.parse_step(name) is not None]
        return sorted(found, key=lambda one: (one.step, one.summary.attempt if one.summary else 0, one.folder))

    def look(self, folder: str) -> Listed:
        """One checkpoint folder by its summary."""
        step = names.parse_step(folder)
        assert step is not None, folder
        path = f"{folder}/{names.MANIFEST}"
        try:
            head = self.storage.read(path, 0, SUMMARY_BYTES)
            summary = decode_summary(head, f"{self.where}/{path}")
            return Listed(folder, step, summary, foreign=summary.run != self.info.run)
        except FileNotFoundError:
            return Listed(folder, step, None, "it has no manifest")
        except OSError as error:
            return Listed(folder, step, None, error.strerror)
        except MilepostError as error:
            return Listed(folder, step, None, error.message)


def make_folder_if_missing(storage: Storage, path: str) -> None:
    """Make folder `path` unless it is there, durably."""
    try:
        storage.make_folder(path)
    except FileExistsError:
        return
    storage.sync_dir(path.rpartition("/")[0])
