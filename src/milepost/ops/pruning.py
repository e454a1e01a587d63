"""Removing checkpoints of a run by hand, beside the job that may be writing it.

Nothing has to be locked. Files are shared by hard link, so removing one name leaves the others whole, and a job that
finds the checkpoint gone that it wanted to link to writes the bytes instead. A folder is first renamed to
``.trash-…`` (which takes it out of the run at once), then looked at: if a job has put a newer checkpoint under that
name since it was judged, it gets its name back.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from milepost.core.manifest import SUMMARY_BYTES, Summary, decode_summary
from milepost.errors import MilepostError
from milepost.folder import names
from milepost.folder.lineage import of_run
from milepost.folder.retention import Decision, Keep, decide
from milepost.folder.run import Listed, RunFolder
from milepost.folder.tags import read_tags
from milepost.ops.refs import wording

TRASH = ".trash-"


class Plan(NamedTuple):
    """A decision for each checkpoint, and the bytes on disk that removing frees."""

    decisions: list[Decision]
    freed: int

    @property
    def doomed(self) -> list[Listed]:
        """What would go."""
        return [decision.checkpoint for decision in self.decisions if not decision.keep]


def plan(run: RunFolder, keep: Keep) -> Plan:
    """What `keep` leaves of `run`, and why. Never removed: the newest good checkpoint, tagged and pinned ones, those
    that cannot be read or that another run wrote.

    Raises:
        DamagedError: a tag cannot be read, so that nobody knows what it keeps.
        StorageError: the storage refused.
    """
    with wording("read the run", run.where):
        # One listing for both: what could not be read for a moment is not removed for being in no lineage.
        checkpoints = run.checkpoints()
        decisions = decide(checkpoints, of_run(run, checkpoints=checkpoints), keep, read_tags(run))
        doomed = [decision.checkpoint.folder for decision in decisions if not decision.keep]
        return Plan(decisions, _freed(run, doomed))


def carry_out(run: RunFolder, doomed: Sequence[Listed], on_removed: Callable[[Listed], None]) -> list[Listed]:
    """Remove `doomed`; returns those that were left alone, because they were changed since they were judged.

    Raises:
        StorageError: the storage refused; what was removed so far stays removed.
    """
    with wording("remove a checkpoint", run.where):
        _clear_leftovers(run)
        trash = {one.folder: f"{TRASH}{secrets.token_hex(4)}-{one.folder}" for one in doomed}
        taken = [one for one in doomed if _take(run, one, trash[one.folder])]
        # Were a file gone before the name is, a crash would leave a checkpoint with holes.
        run.storage.sync_dir()
        for one in taken:
            run.storage.remove_tree(trash[one.folder])
            on_removed(one)
        run.storage.sync_dir()
        return [one for one in doomed if one not in taken and _there(run, one.folder)]


def _take(run: RunFolder, one: Listed, trash: str) -> bool:
    """Rename a checkpoint to `trash` if it is still what was judged."""
    if _summary(run, one.folder) != one.summary:
        return False
    try:
        run.storage.rename(one.folder, trash)
    except FileNotFoundError:
        return False  # the job's own retention was faster
    if _summary(run, trash) == one.summary:
        return True
    run.storage.rename(trash, one.folder)
    return False


def _clear_leftovers(run: RunFolder) -> None:
    """Finish what a prune that was killed had begun to remove."""
    for name in run.storage.list():
        if name.startswith(TRASH) and names.parse_step(name[len(TRASH) :].partition("-")[2]) is not None:
            run.storage.remove_tree(name)


def _summary(run: RunFolder, folder: str) -> Summary | None:
    path = f"{folder}/{names.MANIFEST}"
    try:
        return decode_summary(run.storage.read(path, 0, SUMMARY_BYTES), path)
    except (FileNotFoundError, MilepostError):
        return None


def _there(run: RunFolder, folder: str) -> bool:
    try:
        run.storage.stat(folder)
    except FileNotFoundError:
        return False
    return True


def _freed(run: RunFolder, doomed: Sequence[str]) -> int:
    """Bytes of the files whose every name is in a doomed folder."""
    held: dict[tuple[int, int], tuple[int, int, int]] = {}
    for folder in doomed:
        try:
            for name in run.storage.list(folder):
                found = run.storage.stat(f"{folder}/{name}")
                size, links, seen = held.get(found.identity, (found.size, found.links, 0))
                held[found.identity] = (size, links, seen + 1)
        except FileNotFoundError:
            continue  # removed by a live job just now
    return sum(size for size, links, seen in held.values() if seen >= links)
