"""Real SIGKILLs: a job is killed at a random instant, again and again, and each life goes on from what the one before left.

A program of its own (``python -m harness.killing FOLDER KILLS SEED [MISTAKE]``), so that children are forked from a process that
has loaded everything and started no thread. Prints what it saw as one JSON object; ``problems`` is empty if all went well.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import struct
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from harness.driving import Job, State, key_of, read, same_bits
from harness.variants import MISTAKES

from milepost.errors import MilepostError
from milepost.folder import names
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.retention import Keep
from milepost.folder.run import RunFolder
from milepost.storage import LocalStorage
from milepost.storage.faults import Operation, Wrapper

T = TypeVar("T")
KEEP = Keep(last=2)
ACKNOWLEDGED = struct.Struct("<2q")
PATIENCE = 30.0  # seconds until a child that says nothing counts as hung


class Phase:
    """Where a job is, in memory that it shares with whoever kills it."""

    NAMES = ("starting", "between saves", "writing", "committing", "retention")

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    def set(self, name: str) -> None:
        self._shared[0] = self.NAMES.index(name)

    def __str__(self) -> str:
        return self.NAMES[self._shared[0]]


class Traced(Wrapper):
    """Says which phase each operation of a save belongs to."""

    def __init__(self, inner: LocalStorage, phase: Phase) -> None:
        super().__init__(inner)
        self.phase = phase

    def _around(self, operation: Operation, call: Callable[[], T]) -> T:
        if str(self.phase) != "starting":
            name, paths = operation
            if any("trash-" in path for path in paths):
                self.phase.set("retention")
            elif name in ("rename", "exchange") or (name == "sync_dir" and paths == ("",)):
                self.phase.set("committing")
            elif any(".work/" in path for path in paths):
                self.phase.set("writing")
        return call()


class Chain:
    """The state after each step, which depends on every step before it."""

    def __init__(self) -> None:
        self._states = [np.arange(4000, dtype=np.uint64)]

    def __getitem__(self, step: int) -> State:
        while len(self._states) <= step:
            self._states.append(advanced(self._states[-1], len(self._states)))
        return state_of(self._states[step])


def advanced(weights: npt.NDArray[np.uint64], step: int) -> npt.NDArray[np.uint64]:
    """One step of the job."""
    with np.errstate(over="ignore"):
        return weights * np.uint64(6364136223846793005) + np.uint64(step)


def state_of(weights: npt.NDArray[np.uint64]) -> State:
    """Two items, one of them partly frozen."""
    return {
        "model": {"weights": weights, "frozen": np.arange(5000, dtype=np.float32)},
        "optimizer": {"moments": (weights >> np.uint64(11)).astype(np.float64)},
    }


def work(folder: str, phase: Phase, answer: int) -> None:
    """The life of a job: restore, then save as fast as it can, telling each step once it is durable."""
    job = Job(Traced(LocalStorage(folder), phase), KEEP)
    step = 0 if job.restored is None else job.restored.step
    weights = job.state["model"]["weights"] if step else np.arange(4000, dtype=np.uint64)
    os.write(answer, ACKNOWLEDGED.pack(job.number, step))
    phase.set("between saves")
    while True:
        step += 1
        weights = advanced(weights, step)
        assert job.committer is not None
        saved = job.commit(step, state_of(weights), loss=1.0)
        os.write(answer, ACKNOWLEDGED.pack(job.number, step))
        job.committer.tidy(saved)
        phase.set("between saves")


def live(folder: str, phase: Phase, seconds: float) -> tuple[list[tuple[int, int]], str | None]:
    """One life, ended by SIGKILL after so many seconds. What it acknowledged, and what it died of, if not of that."""
    assert threading.active_count() == 1, "a child of a process with threads may hang"
    phase.set("starting")
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(folder, phase, told)
        except BaseException:
            os.write(told, b"!" + traceback.format_exc().encode())
        os._exit(1)
    os.close(told)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(answer, "rb") as pipe:
        said, _, problem = pipe.read().partition(b"!Traceback")
    whole = len(said) - len(said) % ACKNOWLEDGED.size
    return list(ACKNOWLEDGED.iter_unpack(said[:whole])), problem.decode() or None


def pace(folder: str, phase: Phase) -> tuple[float, float]:
    """Seconds that a job takes to open its run, and to save once, here and now."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        work(folder, phase, told)
    begin = time.perf_counter()
    moments = []
    for _ in range(11):
        assert os.read(answer, ACKNOWLEDGED.size)
        moments.append(time.perf_counter() - begin)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(answer)
    os.close(told)
    return moments[0], (moments[-1] - moments[0]) / 10


def examine(folder: str, chain: Chain, newest: int, opened: int, untidied: int) -> list[str]:
    """What is wrong with the run: `newest` is the last step that was acknowledged, `opened` the last attempt that came to work,
    `untidied` how many checkpoints may have been committed since retention was last done."""
    storage = LocalStorage(folder)
    problems = []
    found = RunFolder.open(storage).checkpoints() if names.RUN in storage.list() else []
    for one in found:
        try:
            checkpoint = Checkpoint(storage.child(one.folder))
            tensors = read(checkpoint)
            expected = {
                f"{item}/{name}": array for item, values in chain[one.step].items() for name, array in values.items()
            }
            if tensors.keys() != expected.keys() or not all(
                same_bits(tensors[path], expected[path]) for path in expected
            ):
                problems.append(f"{one.folder} is not what was saved")
            if storage.list(one.folder) != sorted([names.MANIFEST, *checkpoint.manifest.files]):
                problems.append(f"{one.folder} holds {storage.list(one.folder)}")
        except MilepostError as error:
            problems.append(f"{one.folder} can be seen and is not whole: {error}")
    steps = [one.step for one in found if key_of(one) is not None]
    if newest > max(steps, default=0):
        problems.append(f"step {newest} was acknowledged; there are {steps}")
    if len(found) > (KEEP.last or 0) + untidied:
        problems.append(f"retention left {steps}")
    attempts = storage.list(names.ATTEMPTS) if names.ATTEMPTS in storage.list() else []
    for number, ending in filter(None, map(names.parse_attempt, attempts)):
        if ending in ("work", "fenced") and number < opened:
            problems.append(f"attempt {opened} left {number}.{ending}")
    return problems


def main(folder: str, kills: int, seed: int, mistake: str | None = None) -> dict[str, Any]:
    """Kill a job so many times; stops at the first problem."""
    if mistake is not None:
        MISTAKES[mistake](pytest.MonkeyPatch())
    chance = random.Random(seed)
    os.makedirs(folder, exist_ok=True)
    phase, chain, phases = Phase(), Chain(), Counter[str]()
    to_open, to_save = pace(f"{folder}.pace", phase)
    newest = opened = acknowledged = untidied = 0
    problems: list[str] = []
    for _ in range(kills):
        # A quarter of them while the job starts, the others during its first saves.
        starts = chance.random() < 0.25
        seconds = chance.uniform(0, to_open) if starts else chance.uniform(to_open, to_open + 5 * to_save)
        told, problem = live(folder, phase, seconds)
        phases[str(phase)] += 1
        if not starts:  # opening takes longer the more attempts there were
            to_open *= 1.1 if str(phase) == "starting" else 0.99
        for attempt, step in told:
            opened = max(opened, attempt)
            newest = max(newest, step)
        acknowledged += max(0, len(told) - 1)
        # Retention follows each acknowledgement: of a life that gave two, it was done for the first. One that gave fewer may have
        # been killed between its commit and the retention after it, and so may the lives before.
        untidied = 1 if len(told) > 2 else untidied + 1
        problems = ([problem] if problem is not None else []) + examine(folder, chain, newest, opened, untidied)
        if told and told[0][1] < newest - len(told):
            problems.append(f"attempt {told[0][0]} went back to step {told[0][1]}, {newest} was acknowledged")
        if problems:
            break
    return {
        "kills": sum(phases.values()), "acknowledged": acknowledged, "attempts": opened, "phases": phases, "problems": problems,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])))
