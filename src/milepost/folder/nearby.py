"""Checkpoints on the disk of this node: where an attempt saves first, and what earlier ones left there.

    STAGE_DIR/milepost-3f2a9c41d0b7e865/    for one run, by its identity
      2/                                    what attempt 2 saved: a run directory of its own, with no more than that
        milepost.json, attempts/2.json, attempts/2.work/
        step-00000400/

Nothing here is ever needed: the node may be another the next time. A copy counts only if it is of the same run, attempt and
step as a checkpoint of the lineage, and an attempt is the same only if its record is: numbers come again when somebody puts an
older copy of the run directory back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence

import msgspec

from milepost.errors import DamagedError, StorageError
from milepost.folder import names
from milepost.folder.attempts import Record, read_record
from milepost.folder.commit import Committer
from milepost.folder.fencing import exists
from milepost.folder.retention import Keep, decide, remove
from milepost.folder.run import Listed, RunFolder
from milepost.storage.base import Storage, storage_error

FOLDER = "milepost-"


class Home:
    """Where attempt `number` saves on this node. A `milepost.folder.commit.Hold`: it ends when a newer attempt on the same node
    takes it away."""

    def __init__(self, storage: Storage, run: RunFolder, number: int) -> None:
        self.run = RunFolder(storage, run.info)
        self.number, self.work = number, names.attempt_work(number)

    def fenced(self) -> bool:
        """Whether a newer attempt has taken it away."""
        return not exists(self.run.storage, self.work)

    def committer(self) -> Committer:
        """Writes checkpoints here."""
        return Committer(self.run, self, Keep(last=None))

    def tidy(self, busy: Collection[str]) -> None:
        """Remove the checkpoints that nobody needs any more: all but the newest, the newest good one, and the folders `busy`.

        Raises:
            RunFenced, OSError: see `milepost.folder.retention.remove`.
        """
        there = self.run.checkpoints()
        for decision in decide(there, there[::-1], Keep(last=1), {}):
            folder = decision.checkpoint.folder
            if not decision.keep and folder not in busy:
                remove(self.run, folder, self.work)


class Nearby:
    """What is on this node's disk of a run.

    Args:
        stage_dir: the folder that the script named.
        run: the run.
        records: of its attempts.
    """

    def __init__(self, stage_dir: Storage, run: RunFolder, records: Mapping[int, Record]) -> None:
        self._stage_dir, self._name, self._run = stage_dir, f"{FOLDER}{run.info.run}", run
        self.storage = stage_dir.child(self._name)
        self._copies: dict[tuple[int, int], tuple[Listed, Storage]] = {}
        for number in self._numbers():
            storage = self.storage.child(str(number))
            if number in records and _same(storage, number, records[number]):
                for one in RunFolder(storage, run.info).checkpoints():
                    if one.summary is not None and one.summary.attempt == number and not one.foreign:
                        self._copies[number, one.step] = one, storage.child(one.folder)

    def _numbers(self) -> list[int]:
        try:
            return sorted(int(name) for name in self.storage.list() if name.isdecimal())
        except FileNotFoundError:
            return []

    def only_here(self, checkpoints: Sequence[Listed]) -> list[Listed]:
        """The checkpoints that did not get into the run directory, whose own are `checkpoints`."""
        there = {(one.summary.attempt, one.step) for one in checkpoints if one.summary is not None and not one.foreign}
        return [listed for key, (listed, _) in self._copies.items() if key not in there]

    def alone(self, one: Listed) -> bool:
        """Whether `one` is here and not in the run directory."""
        return any(one is listed for listed, _ in self._copies.values())

    def copy_of(self, one: Listed) -> Storage | None:
        """The copy of that very checkpoint, if there is one: either it is here alone, or both manifests are the same."""
        if one.summary is None or one.foreign:
            return None
        listed, storage = self._copies.get((one.summary.attempt, one.step), (None, None))
        if storage is None or one is listed:  # it is here alone
            return storage
        with contextlib.suppress(OSError):
            if storage.read(names.MANIFEST) == self._run.storage.read(f"{one.folder}/{names.MANIFEST}"):
                return storage
        return None

    def move_in(self, record: Record) -> Home:
        """Make the place where the attempt of `record` saves.

        Raises:
            StorageError: that is not possible on this disk.
        """
        storage = self.storage.child(str(record.number))
        try:
            self.storage.make_root()
            self._remove(record.number)
            storage.make_root()
            storage.make_folder(names.ATTEMPTS)
            storage.make_folder(names.attempt_work(record.number))
            storage.write(names.RUN, msgspec.json.encode(self._run.info))
            storage.write(names.attempt_file(record.number), msgspec.json.encode(record))
            storage.sync_dir(names.ATTEMPTS)
            storage.sync_dir()
        except OSError as error:
            raise storage_error(error, "save to the disk of this node", storage.root) from error
        return Home(storage, self._run, record.number)

    def leave(self, *attempts: int) -> None:
        """Remove everything but what these attempts saved.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            for number in self._numbers():
                if number not in attempts:
                    self._remove(number)
            if not attempts:
                self._stage_dir.remove_tree(self._name)
        except OSError as error:
            raise storage_error(error, "tidy up the disk of this node", self.storage.root) from error

    def _remove(self, number: int) -> None:
        # Renamed first: a process that still saves there finds that out at once.
        gone = f".{number}"
        self.storage.remove_tree(gone)
        with contextlib.suppress(FileNotFoundError):
            self.storage.rename(str(number), gone)
        self.storage.remove_tree(gone)


def _same(storage: Storage, number: int, record: Record) -> bool:
    """Whether what is in `storage` was saved by the attempt of `record`."""
    try:
        found = read_record(storage, number)
    except (DamagedError, StorageError, OSError):
        return False
    return found is not None and bool(found.id) and found.id == record.id
