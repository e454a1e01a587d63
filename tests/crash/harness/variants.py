"""Ways to get it wrong, each one a mistake that looks harmless. The harness must notice every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from milepost.core.manifest import Manifest
from milepost.errors import RunFenced
from milepost.folder import attempts, commit, names, writer
from milepost.folder.attempts import Attempt
from milepost.folder.attempts import alive as attempts_alive
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.commit import Committer
from milepost.folder.run import Listed, RunFolder
from milepost.folder.snapshot import Snapshot
from milepost.storage.base import FileWriter, Storage
from milepost.storage.faults import NoSync, Wrapper


class NoFileSync(NoSync):
    """Folders are synced, the data of files is not."""

    write = Wrapper.write

    def sync_dir(self, path: str = "") -> None:
        Wrapper.sync_dir(self, path)


class NoDraftSync(Wrapper):
    """The names in a new checkpoint folder are not synced."""

    def sync_dir(self, path: str = "") -> None:
        if names.parse_step(path.rpartition("/")[2]) is None:
            super().sync_dir(path)


class NoRunSync(Wrapper):
    """The rename into the run directory is not synced."""

    def sync_dir(self, path: str = "") -> None:
        if path:
            super().sync_dir(path)


class NoTrashSync(Wrapper):
    """What is removed is renamed first, but that is not synced."""

    def sync_dir(self, path: str = "") -> None:
        if not path.endswith(".work"):
            super().sync_dir(path)


class NoRecordSync(Wrapper):
    """What an attempt continues is not durable before its first step."""

    def sync_dir(self, path: str = "") -> None:
        if path != names.ATTEMPTS:
            super().sync_dir(path)


class NoManifestSync(NoSync):
    """All is synced but the manifest."""

    write = Wrapper.write

    def create(self, path: str, size: int) -> FileWriter:
        return super().create(path, size) if path.endswith(names.MANIFEST) else Wrapper.create(self, path, size)

    def sync_dir(self, path: str = "") -> None:
        Wrapper.sync_dir(self, path)


STORAGES = (NoSync, NoFileSync, NoManifestSync, NoDraftSync, NoRunSync, NoTrashSync, NoRecordSync)
"""Storages that forget a sync."""


class RenameBeforeWrite(Committer):
    """The folder gets its final name first and is filled then."""

    def commit(self, snapshot: Snapshot) -> Listed:
        storage, final = self._run.storage, names.step_folder(snapshot.position.step)
        draft = f"{self._attempt.work}/{final}"
        with fenced_means_stop(self._attempt):
            storage.remove_tree(draft)
            storage.make_folder(draft)
            self._publish(draft, final, snapshot.position.step)
            manifest = self._write(final, snapshot)
            storage.sync_dir(final)
            storage.sync_dir()
        return Listed(final, snapshot.position.step, manifest.summary)


class ManifestBeforeFiles(Committer):
    """The manifest, which says that a checkpoint is complete, is published before the files it names are there."""

    def commit(self, snapshot: Snapshot) -> Listed:
        storage, final = self._run.storage, names.step_folder(snapshot.position.step)
        draft, later = f"{self._attempt.work}/{final}", f"{self._attempt.work}/later"
        with fenced_means_stop(self._attempt):
            for folder in (draft, later):
                storage.remove_tree(folder)
                storage.make_folder(folder)
            manifest = self._write(later, snapshot)
            storage.rename(f"{later}/{names.MANIFEST}", f"{draft}/{names.MANIFEST}")
            storage.sync_dir(draft)
            self._publish(draft, final, snapshot.position.step)
            storage.sync_dir()
            for name in manifest.files:
                storage.rename(f"{later}/{name}", f"{final}/{name}")
            storage.sync_dir(final)
        return Listed(final, snapshot.position.step, manifest.summary)


@contextmanager
def fenced_means_stop(attempt: Attempt) -> Iterator[None]:
    """As in the real committer."""
    try:
        yield
    except FileNotFoundError as error:
        if attempt.fenced():
            raise RunFenced("a newer attempt has taken over", where=attempt.run.root) from error
        raise


class RemovalBeforeCommit(Committer):
    """Retention comes before the new checkpoint is there."""

    def _write(self, draft: str, snapshot: Snapshot) -> Manifest:
        for old in self._run.checkpoints():
            if old.current and old.summary is not None and old.summary.attempt == self._attempt.number:
                self._run.storage.remove_tree(old.folder)
        return super()._write(draft, snapshot)


COMMITTERS = (RenameBeforeWrite, ManifestBeforeFiles, RemovalBeforeCommit)
"""Committers with another order of writes."""


def remove_in_place(run: RunFolder, folder: str, work: str) -> None:
    """Removal without renaming first: a crash leaves half a checkpoint under its name."""
    for name in run.storage.list(folder):
        run.storage.remove(f"{folder}/{name}")
    run.storage.remove_tree(folder)


def link_whatever_is_there(run: Storage, source: str, target: str, size: int) -> bool:
    """Links without looking at the size of what is linked to."""
    try:
        run.link(source, target)
    except OSError:
        return False
    return True


def read_unchecked(self: Checkpoint, file: str, room: memoryview, place: Any = None, on_block: Any = None) -> None:
    """Restores without digests."""
    for key, span in self.spans(file).items():
        out = place(key, span) if place is not None else None
        if out is not None:
            out[:] = self.storage.read(file, span.offset, span.nbytes)


def fence_by_flag(run: Storage, number: int) -> None:
    """Fencing that only says so: whoever is fenced is expected to look. The dead are cleared away."""
    run.write(f"{names.ATTEMPTS}/{number}.flag", b"", replace=True)
    if not run.locked(names.attempt_lock(number)):
        run.remove_tree(names.attempt_work(number))


def look_at_flag(self: Attempt) -> bool:
    """Whether a newer attempt has said so."""
    return f"{self.number}.flag" in self.run.list(names.ATTEMPTS)


def alive_unless_flagged(run: Storage, number: int) -> Any:
    """Whoever was told to stop counts as dead."""
    flagged = f"{number}.flag" in run.list(names.ATTEMPTS)
    return (None, 0.0) if flagged else attempts_alive(run, number)


class CheckThenRename(Committer):
    """Looks whether it is fenced, and then renames."""

    def _publish(self, draft: str, final: str, step: int) -> None:
        if self._attempt.fenced():
            raise RunFenced("a newer attempt has taken over", where=self._run.where)
        super()._publish(draft, final, step)


def check_then_rename(patch: Any) -> None:
    """Set up fencing by check and rename."""
    patch.setattr("harness.machine.CrashMachine.nothing_is_left_over", lambda *_: None)
    patch.setattr(attempts, "fence", fence_by_flag)
    patch.setattr(attempts, "alive", alive_unless_flagged)
    patch.setattr(Attempt, "fenced", look_at_flag)
    patch.setattr("harness.driving.Committer", CheckThenRename)


MISTAKES = {
    **{one.__name__: (lambda patch, one=one: patch.setattr("harness.driving.Committer", one)) for one in COMMITTERS},
    "remove in place": lambda patch: patch.setattr(commit, "remove", remove_in_place),
    "link without size check": lambda patch: patch.setattr(writer, "try_link", link_whatever_is_there),
    "no digests": lambda patch: patch.setattr(Checkpoint, "read_file", read_unchecked),
    "check, then rename": check_then_rename,
}
"""Name -> sets it up, given pytest's monkeypatch."""
