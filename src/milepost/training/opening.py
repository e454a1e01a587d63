"""Opening a run: claim it, find out what it continues, restore that.

The order matters: earlier attempts are fenced before checkpoints are listed, and what this attempt continues is durable before
it makes its first step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from milepost.core import values
from milepost.errors import MilepostError
from milepost.folder import names, which
from milepost.folder.attempts import Attempt, Owner, Parent, Record, claim, read_record
from milepost.folder.lineage import lineage, newest_attempt, read_records
from milepost.folder.nearby import Home, Nearby
from milepost.folder.retention import Keep
from milepost.folder.run import Listed, RunFolder
from milepost.folder.sharing import Base
from milepost.pipeline.stage import Stager
from milepost.slurm.queue import has_ended
from milepost.storage.base import Storage, storage_error
from milepost.storage.local import LocalStorage
from milepost.training.continuation import Continuation, what_came_after
from milepost.training.items import RESERVED, Item
from milepost.training.provenance import differences
from milepost.training.restore import LoadedItem, ResumeReport, choose, put_back

BRANCH = "a branch begins here"
FALLS_BACK = ("latest", "good")


@dataclass
class Opened:
    """An opened run. `own` is the state milepost keeps for itself, `base` what the first save may link to, `before` the record of
    the attempt that is continued."""

    run: RunFolder
    attempt: Attempt
    report: ResumeReport
    own: dict[str, Any] | None = None
    base: Base | None = None
    before: Record | None = None
    complete: bool = False
    """Whether the run had ended cleanly at the checkpoint that was restored."""
    home: Home | None = None
    """Where this attempt saves first, on the disk of this node."""
    left: tuple[Listed, Storage] | None = None
    """The checkpoint that was restored, if it is on the disk of this node alone."""
    nearby: Nearby | None = None
    changed: Sequence[str] = ()
    """What is not as it was when that checkpoint was written: script, arguments, versions ..."""

    def said(self) -> Iterator[str]:
        """What a person is told at the start."""
        yield f"{self.run.where}, attempt {self.attempt.number}: {self.report}"
        yield from self.report.notes
        yield from (f"changed since that checkpoint: {line}" for line in self.changed)
        yield from (f"override: {path} = {value!r}" for path, value in self.report.overridden.items())
        if self.complete:
            yield "this run was complete"
        elif self.report.checkpoint is not None:
            yield str(self.report.continuation)

    def leave_node(self) -> None:
        """All is durable and nothing more comes: remove what is on the disk of this node."""
        if self.nearby is not None:
            self.nearby.leave()


def node_storage(folder: str, note: Callable[[str], None]) -> Storage | None:
    """The folder on this node's disk; None, and a note, where its name has a variable that is not set here."""
    if "$" in folder:
        note(f"{folder} is not set here: saves go straight to the run directory")
        return None
    return LocalStorage(folder)


def open_run(
    storage: Storage,
    items: Mapping[str, Item],
    stager: Stager,
    *,
    resume: str,
    keep: Keep,
    takeover: bool,
    overrides: Mapping[str, Any],
    written_by: Mapping[str, Any],
    anew: bool = False,
    stage_dir: Storage | None = None,
) -> Opened:
    """Open the run in `storage`, creating it if need be, and restore what `resume` names into `items`.

    The same `resume` that opened a branch continues that branch, unless `anew`.

    Raises:
        RunBusy: another attempt is alive.
        MismatchError: the checkpoint does not fit; nothing was changed.
        NotFoundError: `resume` names a checkpoint that is not there.
        DamagedError: no checkpoint that may be taken is good.
        StorageError: the run directory cannot be made or read.
    """
    run = RunFolder.create(storage)
    if run.info.best != keep.best_by and keep.best_by is not None:
        run.info.best = keep.best_by
        run.save_info()
    try:
        attempt = claim(storage, takeover=takeover, has_ended=partial(_job_has_ended, run))
    except OSError as error:
        raise storage_error(error, "open the run for writing", run.where) from error
    try:
        attempt.record.written_by = dict(written_by)
        records = read_records(run)
        nearby = None if stage_dir is None else Nearby(stage_dir, run, records)
        opened = _continue(run, attempt, items, stager, resume, overrides, anew, records, nearby)
        attempt.save_record()
        if nearby is not None:
            opened.nearby, opened.home = nearby, nearby.move_in(attempt.record)
            parent = attempt.record.parent
            nearby.leave(attempt.number, *([parent.attempt] if opened.left and parent else []))
    except BaseException as problem:
        attempt.end("failed")
        if isinstance(problem, OSError):
            raise storage_error(problem, "open the run", run.where) from problem
        raise
    return opened


def _job_has_ended(run: RunFolder, number: int, owner: Owner) -> bool:
    """Whether attempt `number` was that of a job of this cluster that is over. Of a process that was killed on another node the
    run directory tells that only when its heart has not beaten for a minute; the next job of a chain begins sooner."""
    cluster = os.environ.get("SLURM_CLUSTER_NAME")
    if owner.slurm_job is None or not cluster:
        return False
    try:
        record = read_record(run.storage, number)
    except MilepostError:
        return False
    there = record.written_by.get("environment") if record is not None else None
    same = isinstance(there, Mapping) and there.get("SLURM_CLUSTER_NAME") == cluster
    return same and has_ended(owner.slurm_job)


def _continue(
    run: RunFolder,
    attempt: Attempt,
    items: Mapping[str, Item],
    stager: Stager,
    resume: str,
    overrides: Mapping[str, Any],
    anew: bool,
    records: Mapping[int, Record],
    nearby: Nearby | None,
) -> Opened:
    checkpoints = run.checkpoints()
    if nearby is not None:
        checkpoints += nearby.only_here(checkpoints)
    head = newest_attempt(records, checkpoints)
    head_record = records.get(head) if head is not None else None
    attempt.record.branch = None if resume == "latest" else resume
    line = lineage(records, checkpoints, head)
    if resume == "never":
        found: Sequence[Listed] = []
    elif resume == "latest" or (head_record is not None and head_record.branch == resume and not anew):
        # The same command that opened a branch continues it.
        attempt.record.branch = head_record.branch if head_record is not None else None
        # What cannot be read belongs to no attempt, but a person must hear of it: a run that holds nothing else is not new.
        found = [one for one in reversed(checkpoints) if one.summary is None and one.current] + list(line)
    else:
        source, found, fall_back = find(run, resume)
        return _restore(run, source, attempt, items, stager, found, fall_back, overrides, {}, None, nearby)
    if not found and head_record is not None and head_record.parent is not None and head_record.branch is not None:
        # A fork that died before it saved anything begins where it began.
        source, found, fall_back = find(run, head_record.branch)
        return _restore(run, source, attempt, items, stager, found, fall_back, overrides, {}, None, nearby)
    if not found:
        return Opened(run, attempt, ResumeReport(None, attempt.number))
    return _restore(run, run, attempt, items, stager, found, True, overrides, records, head_record, nearby)


def find(run: RunFolder, resume: str) -> tuple[RunFolder, Sequence[Listed], bool]:
    """The checkpoints that `resume` names: which one of this run, or a REF (``PLACE[@WHICH]``) of another.

    Returns:
        Their run, they themselves in the order of preference, and whether the next may stand in for one that is damaged.

    Raises:
        NotFoundError: there is no such run or checkpoint.
        ReferenceSyntaxError: `resume` cannot be read.
        MetricError: "best", and the run does not say by which metric.
    """
    if "@" not in resume and "/" not in resume:
        return run, which.candidates(run, resume), resume in FALLS_BACK
    from milepost.ops.refs import Ref, is_checkpoint, locate

    ref = Ref.parse(resume)
    source, listed = locate(ref)
    if os.path.realpath(source.where) == os.path.realpath(run.where):
        source = run
    if is_checkpoint(ref.place):
        return source, [listed], False
    name = ref.which or "latest"
    return source, which.candidates(source, name), name in FALLS_BACK


def _restore(
    run: RunFolder,
    source: RunFolder,
    attempt: Attempt,
    items: Mapping[str, Item],
    stager: Stager,
    found: Sequence[Listed],
    fall_back: bool,
    overrides: Mapping[str, Any],
    records: Mapping[int, Record],
    before: Record | None,
    nearby: Nearby | None,
) -> Opened:
    listed, checkpoint, loaded, passed_over = choose(
        source,
        found,
        stager.room,
        fall_back=fall_back,
        borrowing=[name for name, item in items.items() if item.borrows],
        nearby=nearby if source is run else None,
    )
    assert listed.summary is not None
    # An override is part of the branch: it is applied once, where the branch begins, and then lives on in the state. So
    # what counts is who wrote the checkpoint: an attempt that died before it saved anything applied nothing.
    writer = records.get(listed.summary.attempt)
    applied = writer.overrides if writer is not None else {}
    asked = {pattern: values.encode(value, f"override={{{pattern!r}: ...}}") for pattern, value in overrides.items()}
    fresh = {pattern: overrides[pattern] for pattern in asked if applied.get(pattern, _ABSENT) != asked[pattern]}
    put_back(items, loaded, fresh)
    own = _own(loaded)
    attempt.record.parent = Parent(listed.summary.attempt, listed.step, source.where if source is not run else None)
    attempt.record.overrides = {**applied, **asked}
    here = source is run and checkpoint.where == run.storage.child(listed.folder).root  # what was read, and so verified
    base = Base(listed.folder, checkpoint.manifest) if here else None
    left = (listed, checkpoint.storage) if nearby is not None and nearby.alone(listed) else None
    notes = (f"read from the disk of this node, {checkpoint.where}",) if source is run and not here else ()
    newer = tuple((folder, reason) for folder, reason in passed_over if (names.parse_step(folder) or 0) >= listed.step)
    parent, overrides = attempt.record.parent, attempt.record.overrides
    continuation = what_came_after(run.storage, records, parent, overrides) if records else Continuation(why_not=BRANCH)
    report = ResumeReport(listed, attempt.number, newer, notes, fresh, continuation)
    complete = before is not None and before.ended == "complete" and before.step == listed.step
    written_by = checkpoint.manifest.written_by
    changed = differences(written_by, attempt.record.written_by) if written_by else ()
    return Opened(run, attempt, report, own, base, before, complete, left=left, changed=changed)


_ABSENT = object()


def _own(loaded: Mapping[str, LoadedItem]) -> dict[str, Any] | None:
    own = loaded.get(RESERVED)
    if own is None:
        return None
    value = own.value()
    if not isinstance(value, dict):
        raise MilepostError("the state that milepost keeps for itself has another form", found=type(value).__name__)
    return value
