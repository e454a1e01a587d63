"""Makes a snapshot a checkpoint. The order of writes is the whole point; see `Committer.commit`."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from milepost.core.manifest import FORMAT, Manifest, Shard, Summary, encode, plain_metrics
from milepost.core.manifest import File as FileRecord
from milepost.core.manifest import Tensor as TensorRecord
from milepost.errors import MilepostError, RunFenced
from milepost.folder import names
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.copying import copy_checkpoint
from milepost.folder.fencing import clear
from milepost.folder.lineage import of_run
from milepost.folder.retention import Keep, best_of, components, decide, remove
from milepost.folder.run import Listed, RunFolder
from milepost.folder.sharing import Base
from milepost.folder.snapshot import Piece, Snapshot
from milepost.folder.swapping import swap_in
from milepost.folder.tags import read_tags
from milepost.folder.writer import ItemWriter, write_read_only


class Hold(Protocol):
    """A process's hold on a run: see `milepost.folder.attempts.Attempt`."""

    work: str

    @property
    def number(self) -> int:
        """Of the attempt."""

    def fenced(self) -> bool:
        """Whether a newer attempt has taken the work folder away."""


class Committer:
    """Writes the checkpoints of one attempt. One thread at a time.

    Args:
        run: the run.
        attempt: this process's hold on it.
        keep: what retention leaves.
        base: the checkpoint this attempt restored and verified, if any: the first save may link to it.
    """

    def __init__(self, run: RunFolder, attempt: Hold, keep: Keep, base: Base | None = None) -> None:
        self._run, self._attempt, self._keep = run, attempt, keep
        self._base = base
        self._items = ItemWriter(run.storage)

    def close(self) -> None:
        """End the writing thread."""
        self._items.close()

    def commit(self, snapshot: Snapshot) -> Listed:
        """Write `snapshot` and make it visible.

        Order: (1) every file, each synced; (2) the manifest, synced; (3) the folder's names; (4) one rename into the run
        directory; (5) the run directory's names; (6) only then the caller is told, `latest` moves and old checkpoints go. A crash
        before (4) leaves nothing visible, after (4) a whole checkpoint.

        Raises:
            RunFenced: a newer attempt owns the run; nothing became visible.
            OSError: the storage refused; nothing became visible, and what was written is removed.
            TornSnapshot: the snapshot never became complete; likewise.
        """
        return self._make(snapshot.position.step, lambda draft: self._write(draft, snapshot))

    def bring(self, source: Checkpoint, on_bytes: Callable[[int], None] = lambda nbytes: None) -> Listed:
        """Copy a checkpoint that is whole elsewhere, and make it visible, in the same order of writes.

        Args:
            source: the checkpoint; its attempt may be an earlier one.
            on_bytes: see `copy_checkpoint`.

        Raises:
            RunFenced, OSError: as for `commit`.
            DamagedError, StorageError: the source is not what was saved, or cannot be read.
        """

        def copy(draft: str) -> Manifest:
            base = self._base if self._may_share() else None
            copy_checkpoint(source, self._run.storage, draft, base, on_bytes)
            return source.manifest

        return self._make(source.manifest.summary.step, copy)

    def _make(self, step: int, write: Callable[[str], Manifest]) -> Listed:
        storage, attempt = self._run.storage, self._attempt
        final = names.step_folder(step)
        draft = f"{attempt.work}/{final}"
        try:
            self._clear()  # what a save that failed has left
            storage.make_folder(draft)
            manifest = write(draft)
            storage.sync_dir(draft)
            self._publish(draft, final, step)
            storage.sync_dir()
            self._clear()  # what this one has replaced
        except (FileNotFoundError, MilepostError) as error:
            if attempt.fenced():
                raise RunFenced(
                    "a newer attempt has taken over this run; this one must stop",
                    where=self._run.where,
                    hint="nothing to do: the newer attempt continues the run",
                ) from error
            self._clear()
            raise
        except BaseException:
            if not attempt.fenced():
                self._clear()
            raise
        self._base = Base(final, manifest)
        return Listed(final, step, manifest.summary)

    def _write(self, draft: str, snapshot: Snapshot) -> Manifest:
        base = self._base if self._may_share() else None
        files: dict[str, FileRecord] = {}
        shards: dict[Piece, Shard] = {}
        new_bytes = 0
        for file in snapshot.files:
            written = self._items.write(draft, snapshot.stems[file.item], file, base)
            files |= written.files
            shards |= written.shards
            new_bytes += written.new_bytes
        snapshot.settle()
        tensors = with_shards(snapshot.tensors, shards)
        why_not = _why_not_good(tensors)
        position = snapshot.position
        summary = Summary(
            format=FORMAT,
            run=self._run.info.run,
            attempt=self._attempt.number,
            step=position.step,
            epoch=position.epoch,
            batch=position.batch,
            phase=position.phase,
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            metrics=plain_metrics(dict(snapshot.metrics)),
            tensors=len(tensors),
            bytes=sum(file.size for file in files.values()),
            new_bytes=new_bytes,
            good=why_not is None,
            why_not_good=why_not,
        )
        manifest = Manifest(summary, dict(snapshot.items), tensors, files, dict(snapshot.written_by))
        write_read_only(self._run.storage, f"{draft}/{names.MANIFEST}", encode(manifest))
        return manifest

    def _may_share(self) -> bool:
        """Whether this save may link: enough of the kept checkpoints share no file without it."""
        if self._base is None or self._keep.independent <= 1:
            return True
        kept = [one.folder for one in of_run(self._run, self._attempt.number) if one.summary is not None]
        if self._keep.last is not None:
            kept = kept[: max(1, self._keep.last - 1)]
        return len(components(self._run, kept)) >= self._keep.independent

    def _publish(self, draft: str, final: str, step: int) -> None:
        """Give the finished folder its name. A checkpoint that has that name already is swapped into the work folder, so that a
        fenced attempt cannot displace anything; `clear` then removes it if this attempt made it, else keeps it elsewhere."""
        swap_in(self._run.storage, draft, final, names.set_aside(self._attempt.number, step))

    def _clear(self) -> None:
        clear(self._run.storage, self._attempt.work, self._attempt.number, self._run.info.run)

    def tidy(self, newest: Listed) -> list[str]:
        """Move `latest` and `best`, and remove what `Keep` does not keep. Returns the removed folders.

        Raises:
            RunFenced: a newer attempt owns the run.
            OSError: the storage refused.
        """
        # One listing for all: what could not be read for a moment is not removed for being in no lineage.
        checkpoints = self._run.checkpoints()
        line = of_run(self._run, self._attempt.number, checkpoints)
        self._link("latest", newest.folder)
        by = self._keep.best_by
        best = best_of(line, by) if by is not None else None
        if best is not None:
            self._link("best", best.folder)
        decisions = decide(checkpoints, line, self._keep, read_tags(self._run))
        doomed = [decision.checkpoint.folder for decision in decisions if not decision.keep]
        for folder in doomed:
            remove(self._run, folder, self._attempt.work)
        return doomed

    def _link(self, name: str, folder: str) -> None:
        try:
            self._run.storage.symlink(folder, name)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EEXIST):
                raise
            # A file system without symbolic links, or a file of somebody else: milepost itself never reads these links.


def with_shards(tensors: Mapping[str, TensorRecord], shards: Mapping[Piece, Shard]) -> dict[str, TensorRecord]:
    """The records of tensors, with where their bytes are."""
    where: dict[str, list[Shard]] = {}
    for piece, shard in shards.items():
        where.setdefault(piece.path, []).append(shard)
    return {
        path: msgspec.structs.replace(tensor, shards=tuple(where[path])) if path in where else tensor
        for path, tensor in tensors.items()
    }


def _why_not_good(tensors: Mapping[str, TensorRecord]) -> str | None:
    bad = [
        path
        for path, tensor in tensors.items()
        if tensor.trained and any(shard.finite is False for shard in tensor.shards)
    ]
    if not bad:
        return None
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"NaN or infinity in {', '.join(bad[:3])}{more}"
