"""Which checkpoints an attempt stands on, newest first: its own, then those of the attempt it continues up to where
it branched off, and so on. Checkpoints of other branches are not in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from milepost.errors import DamagedError
from milepost.folder.attempts import Record, attempt_numbers, read_record
from milepost.folder.run import Listed, RunFolder


def read_records(run: RunFolder) -> dict[int, Record]:
    """The records of all attempts that wrote one; one that cannot be read counts as never written."""
    records = {}
    try:
        numbers = attempt_numbers(run.storage)
    except FileNotFoundError:
        return {}
    for number in numbers:
        try:
            record = read_record(run.storage, number)
        except DamagedError:
            continue  # lineage then falls back to the numbers of the attempts
        if record is not None:
            records[number] = record
    return records


def newest_attempt(records: Mapping[int, Record], checkpoints: Sequence[Listed]) -> int | None:
    """The attempt whose lineage `latest` means: the newest that began or saved anything."""
    return max(_saved(checkpoints) | set(records), default=None)


def lineage(records: Mapping[int, Record], checkpoints: Sequence[Listed], attempt: int | None) -> list[Listed]:
    """The checkpoints `attempt` stands on, newest first.

    Where the record of an attempt is missing (the folder was copied without it), the next lower attempt is taken for its parent.
    Folders whose summary cannot be read, and those of other runs, belong to no attempt and are not in it.
    """
    found: list[Listed] = []
    bound: int | None = None
    while attempt is not None:
        own = [
            one
            for one in checkpoints
            if one.summary is not None
            and not one.foreign
            and one.summary.attempt == attempt
            and (bound is None or one.step <= bound)
        ]
        # A crash between two renames can leave a checkpoint under a set-aside name beside, never instead of, its successor.
        own.sort(key=lambda one: (one.step, one.current), reverse=True)
        found += own
        record = records.get(attempt)
        if record is None:
            lower = _saved(checkpoints) | set(records)
            attempt, bound = max((number for number in lower if number < attempt), default=None), None
        elif record.parent is None or record.parent.run is not None or record.parent.attempt >= attempt:
            break  # a parent that is no earlier one would lead in circles
        else:
            attempt, bound = record.parent.attempt, record.parent.step
    return found


def of_run(run: RunFolder, attempt: int | None = None, checkpoints: Sequence[Listed] | None = None) -> list[Listed]:
    """The lineage of `attempt`, or of the newest one, as it is on disk now or in the listing `checkpoints`."""
    records = read_records(run)
    checkpoints = run.checkpoints() if checkpoints is None else checkpoints
    return lineage(records, checkpoints, attempt or newest_attempt(records, checkpoints))


def _saved(checkpoints: Sequence[Listed]) -> set[int]:
    """The attempts that saved something."""
    return {one.summary.attempt for one in checkpoints if one.summary is not None and not one.foreign}
