"""Takeover races: a job commits as fast as it can while a newcomer, another process, fences it and lists the checkpoints.

A program of its own (``python -m harness.racing FOLDER RACES SEED [MISTAKE]``), for the same reason as `harness.killing`.
Whatever the fenced job does in the moment it is fenced, and after: its checkpoint is listed by the newcomer, or is never seen.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import traceback
from typing import Any

import numpy as np
import pytest
from harness.driving import Job, Key, key_of, read
from harness.variants import MISTAKES

from milepost.errors import MilepostError, RunFenced
from milepost.folder import attempts, names
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.retention import Keep
from milepost.folder.run import RunFolder
from milepost.storage import LocalStorage

STATE = {"model": {"weights": np.arange(64, dtype=np.float32)}}
KEEP = Keep(last=2)


def commit_until_fenced(folder: str, answer: int) -> None:
    """The job that is taken over: says when it has begun, then all that was acknowledged."""
    job = Job(LocalStorage(folder), KEEP)
    assert job.committer is not None
    step = 0 if job.restored is None else job.restored.step
    acknowledged = []
    os.write(answer, b"\n")
    try:
        while True:
            step += 1
            saved = job.commit(step, STATE)
            acknowledged.append([job.number, step])
            if step % 4 == 0:
                job.committer.tidy(saved)
    except RunFenced:
        os.write(answer, json.dumps(acknowledged).encode())


def race(folder: str, seconds: float) -> tuple[list[str], int]:
    """One takeover, so many seconds after the other job began to save. What went wrong, and how many checkpoints it had saved."""
    assert threading.active_count() == 1, "a child of a process with threads may hang"
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            commit_until_fenced(folder, told)
        except BaseException:
            os.write(told, traceback.format_exc().encode())
        os._exit(0)
    os.close(told)
    with os.fdopen(answer, "rb") as pipe:
        assert pipe.readline() == b"\n", pipe.read().decode()
        time.sleep(seconds)
        run = RunFolder.create(LocalStorage(folder))
        newcomer = attempts.claim(run.storage, takeover=True)
        listed = visible(run)
        last = pipe.read().decode()
    os.waitpid(child, 0)
    problems = []
    try:
        acknowledged = {Key(*key) for key in json.loads(last)}
    except ValueError:
        return [f"the fenced job did not stop as it should: {last}"], 0
    found = visible(run)
    if found != listed:
        problems.append(f"after the takeover {sorted(found - listed)} appeared and {sorted(listed - found)} went")
    newest = max(acknowledged, default=None)
    if newest is not None and newest not in listed:
        problems.append(f"{newest} was acknowledged and is not there")
    problems += broken(run)
    newcomer.end("closed")
    return problems, len(acknowledged)


def visible(run: RunFolder) -> set[Key | None]:
    """The checkpoints that can be seen."""
    return {key_of(one) for one in run.checkpoints()}


def broken(run: RunFolder) -> list[str]:
    """Checkpoints that can be seen and are not whole, and what the fenced job has left."""
    problems = [f"left over: {name}" for name in run.storage.list(names.ATTEMPTS) if name.endswith(".fenced")]
    for one in run.checkpoints():
        try:
            read(Checkpoint(run.storage.child(one.folder)))
        except MilepostError as error:
            problems.append(f"{one.folder} is not whole: {error}")
    return problems


def main(folder: str, races: int, seed: int, mistake: str | None = None) -> dict[str, Any]:
    """So many races, in runs of 50 attempts; stops at the first problem."""
    if mistake is not None:
        MISTAKES[mistake](pytest.MonkeyPatch())
    chance = random.Random(seed)
    done = acknowledged = 0
    problems: list[str] = []
    while done < races and not problems:
        problems, saved = race(f"{folder}/{done // 50}", chance.uniform(0, 0.004))
        done += 1
        acknowledged += saved
    return {"races": done, "acknowledged": acknowledged, "problems": problems}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])))
