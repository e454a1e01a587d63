"""What `milepost ls` tells: the runs below a folder, and the checkpoints of a run, from their summaries alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from milepost.errors import DamagedError, FormatError, MilepostError, NotFoundError
from milepost.folder import names
from milepost.folder.attempts import OnNode, Owner, alive, attempt_numbers, read_record
from milepost.folder.lineage import lineage, newest_attempt, read_records
from milepost.folder.retention import best_of
from milepost.folder.run import Listed, RunFolder
from milepost.folder.tags import Tag, read_tags
from milepost.ops.refs import wording
from milepost.ops.symptoms import Watch, from_summaries

Branch = Literal["current", "abandoned", "superseded", "foreign", "unreadable"]
"""Where a checkpoint stands: in the lineage of the newest attempt, on a branch it does not continue, replaced by a
later attempt at the same step, in the history of another run, or nowhere, since its summary cannot be read."""


class Row(NamedTuple):
    """One checkpoint, and what the run says of it. `symptoms` are what it is the first to have (see `milepost.ops.symptoms`)."""

    listed: Listed
    branch: Branch
    latest: bool
    best: bool
    tags: tuple[str, ...]
    symptoms: tuple[str, ...] = ()


class Life(NamedTuple):
    """How the newest attempt is doing.

    `state` is "running", or how it ended: "complete", "stopped" (by a signal), "closed", "failed", "died" (without a
    word), or "new" if no attempt was made. `heartbeat` is the age of its last sign of life in seconds, while it runs.
    """

    attempts: int
    state: str
    owner: Owner | None = None
    heartbeat: float | None = None


class Listing(NamedTuple):
    """One run: its checkpoints by step, then attempt, and the bytes they take on disk. `problems` are things beside
    them that could not be read."""

    run: RunFolder
    rows: list[Row]
    nbytes: int
    life: Life
    problems: list[MilepostError]
    on_node: OnNode | None = None
    """What is on the disk of a node alone: see `only_on_node`."""

    @property
    def step(self) -> int | None:
        """The step of the checkpoint that `latest` means."""
        return next((row.listed.step for row in self.rows if row.latest), None)


def list_run(run: RunFolder) -> Listing:
    """List the checkpoints of `run`. Nothing is written; of each checkpoint one block is read, and the sizes of its
    files.

    Raises:
        StorageError: the storage refused.
    """
    problems: list[MilepostError] = []
    with wording("list the run", run.where):
        checkpoints = run.checkpoints()
        line = _line(run, checkpoints)
        tags = _tags(run, problems)
        life = life_of(run)
        nbytes = disk_bytes(run, [one.folder for one in checkpoints])
    tagged: dict[tuple[int, int], list[str]] = {}
    for name, tag in sorted(tags.items()):
        tagged.setdefault((tag.attempt, tag.step), []).append(name)
    in_line = {one.folder for one in line}
    best = best_of(line, run.info.best) if run.info.best is not None else None
    rows = []
    symptoms = from_summaries(one.summary for one in checkpoints)
    for one, first in zip(checkpoints, symptoms, strict=True):
        marks = tagged.get((one.summary.attempt, one.step), []) if one.summary and not one.foreign else []
        rows.append(Row(one, _branch(one, in_line), one in line[:1], one is best, tuple(marks), first))
    return Listing(run, rows, nbytes, life, problems, only_on_node(run, line))


def check_values(listing: Listing, on_block: Callable[[str, int], None] = lambda path, nbytes: None) -> Listing:
    """`listing`, its symptoms told by the values of the checkpoints in the lineage of the newest attempt, all of which are read.
    One whose bytes are damaged has that for a symptom.

    Raises:
        StorageError: the storage refused.
    """
    from milepost.folder.checkpoint import Checkpoint

    watch = Watch(on_block)
    rows = []
    for row in listing.rows:
        symptoms = row.symptoms
        if row.branch == "current":
            try:
                seen = watch.look(Checkpoint(listing.run.storage.child(row.listed.folder)))
                symptoms = (*seen, *(text for text in symptoms if not (seen and text == "first NaN or infinity")))
            except (DamagedError, FormatError):
                symptoms = (*symptoms, "damaged: milepost verify tells more")
            except NotFoundError:
                continue  # removed by a live job just now
        rows.append(row._replace(symptoms=symptoms))
    return listing._replace(rows=rows)


def life_of(run: RunFolder) -> Life:
    """How the newest attempt of `run` is doing.

    Raises:
        OSError: the storage refused.
    """
    try:
        numbers = attempt_numbers(run.storage)
    except FileNotFoundError:
        numbers = []  # the checkpoints were copied without them
    if not numbers:
        return Life(0, "new")
    owner, age = alive(run.storage, numbers[-1], may_write=False)
    if owner is not None:
        return Life(len(numbers), "running", owner, age)
    for number in reversed(numbers):
        try:
            record = read_record(run.storage, number)
        except DamagedError:
            break  # then nobody knows how it ended
        if record is not None:  # without one it ended before it did anything: it could not be opened, say
            return Life(len(numbers), record.ended or "died")
    return Life(len(numbers), "died")


def only_on_node(run: RunFolder, line: Sequence[Listed]) -> OnNode | None:
    """What the newest attempt last wrote to the disk of its node, if nothing as new is in the run directory; `line` is the lineage,
    newest first."""
    records = read_records(run)
    found = records[max(records)].on_node if records else None
    reached = max((one.step for one in line), default=0)
    return found if found is not None and found.step > reached else None


def disk_bytes(run: RunFolder, folders: Sequence[str]) -> int:
    """Bytes that the files in checkpoint `folders` take together, each file counted once however many names it has.

    Raises:
        OSError: the storage refused.
    """
    sizes: dict[tuple[int, int], int] = {}
    for folder in folders:
        try:
            for name in run.storage.list(folder):
                found = run.storage.stat(f"{folder}/{name}")
                sizes[found.identity] = found.size
        except FileNotFoundError:
            continue  # removed by a live job just now
    return sum(sizes.values())


def _line(run: RunFolder, checkpoints: Sequence[Listed]) -> list[Listed]:
    records = read_records(run)
    return lineage(records, checkpoints, newest_attempt(records, checkpoints))


def _tags(run: RunFolder, problems: list[MilepostError]) -> dict[str, Tag]:
    try:
        return read_tags(run)
    except DamagedError as error:
        problems.append(error)
        return {}


def _branch(one: Listed, in_line: set[str]) -> Branch:
    if one.summary is None:
        return "unreadable"
    if one.foreign:
        return "foreign"
    if not names.is_current(one.folder):
        return "superseded"
    return "current" if one.folder in in_line else "abandoned"
