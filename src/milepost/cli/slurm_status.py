"""What ``milepost slurm status`` tells: a run and its jobs, put together from both."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from milepost.errors import SlurmError
from milepost.folder import names
from milepost.folder.attempts import Record
from milepost.folder.lineage import of_run, read_records
from milepost.folder.run import RunFolder
from milepost.ops.listing import life_of, only_on_node
from milepost.ops.refs import open_run, wording
from milepost.slurm.end_time import ask_end
from milepost.slurm.job import Job
from milepost.slurm.queue import state_of
from milepost.training.trace import read_after


class Lost(NamedTuple):
    """Work that was done twice."""

    steps: int
    seconds: float


def status_of(place: str) -> dict[str, Any]:
    """Everything about a run in jobs, with the keys that the help of the command names.

    Raises:
        NotFoundError: there is no such run.
    """
    run = open_run(place)
    with wording("read the run", run.where):
        records = read_records(run)
        life = life_of(run)
        line = of_run(run)
        on_node = only_on_node(run, line)
        good = next((one for one in line if one.summary is not None and one.summary.good), None)
        saved = max(good.step if good else 0, on_node.step if on_node else 0)
        lost = lost_work(run, records, saved if life.state == "died" else None)
    newest = records[max(records)] if records else None
    owner = newest.owner if newest is not None else None
    return {
        "place": place,
        "state": life.state,
        "job": owner.slurm_job if owner else None,
        "restarts": owner.restart_count if owner else 0,
        "host": owner.host if owner else None,
        **_of_slurm(owner.slurm_job if owner else None),
        "checkpoint": good.folder if good else None,
        "step": good.step if good else None,
        "saved": good.summary.time if good and good.summary else None,
        "on_node": msgspec.to_builtins(on_node),
        "attempts": life.attempts,
        "lost_steps": lost.steps,
        "lost_seconds": lost.seconds,
    }


def _of_slurm(number: str | None) -> dict[str, Any]:
    unknown = {"job_state": None, "reason": None, "seconds_left": None}
    if number is None:
        return unknown
    job = Job.numbered(number)
    try:
        told = state_of(job)
        end = ask_end(job, 10.0) if told.state == "RUNNING" else None
    except SlurmError:
        return unknown
    return {
        "job_state": told.state or None,
        "reason": told.reason or None,
        "seconds_left": None if end is None else max(0.0, end - time.time()),
    }


def lost_work(run: RunFolder, records: dict[int, Record], ahead: int | None) -> Lost:
    """What attempts did beyond the checkpoint from which the next went on: steps, and the seconds that these took. What comes next
    will go on from step `ahead`; None while the last attempt lives, or if it saved all."""
    steps, seconds = 0, 0.0
    for number in records:
        again = _again(records.get(number + 1), ahead if number == max(records) else None)
        if again is None:
            continue
        began = records[number].parent
        first = began.step if began is not None and began.run is None else 0
        beyond = {line.step for line in read_after(run.storage, number, again)}
        whole = {line.step for line in read_after(run.storage, number, first)}
        if beyond:
            steps += len(beyond)
            seconds += len(beyond) / len(whole) * _lasted(run, records[number])
    return Lost(steps, seconds)


def _again(following: Record | None, ahead: int | None) -> int | None:
    """The step from which the attempt after one went on; None if there is none, or it began a branch of another run."""
    if following is None:
        return ahead
    if following.parent is None:
        return 0
    return following.parent.step if following.parent.run is None else None


def _lasted(run: RunFolder, record: Record) -> float:
    """Seconds from the start of an attempt to its last step."""
    started = datetime.fromisoformat(record.started).timestamp()
    return max(0.0, run.storage.stat(names.attempt_trace(record.number)).mtime - started)
