"""Takes checkpoints where the audit wants them, and puts them aside.

A run may stand where no checkpoint can be taken (amid gathered gradients, or an inner loop's second batch). The save then waits for
the next place that can be continued from, and what is written down says where that was.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from milepost.auditing.records import Key
from milepost.auditing.spec import Spec
from milepost.folder import names
from milepost.folder.attempts import Record
from milepost.pipeline.persist import Pending
from milepost.training.session import Session

MARGIN = 2
"""Nothing is saved unless so many times its size are free."""


class Taken(msgspec.Struct, omit_defaults=True):
    """One checkpoint that was put aside: for the points `wanted`, at the moment `at`; `folder` has the run directories as they were
    then; or why it was not."""

    wanted: list[Key]
    at: Key
    folder: str = ""
    why_not: str = ""


class Taker:
    """Saves one run where it is told to, and the other runs that the process has open along with it.

    Args:
        spec: where; `saved` is not None.
        scratch: the run directory.
        open_runs: the sessions of the process, by run directory.
    """

    def __init__(self, spec: Spec, scratch: str, open_runs: Callable[[], dict[str, Session]]) -> None:
        self._spec, self._scratch, self._open_runs = spec, scratch, open_runs
        self._wanted: list[Key] = []
        """Points that are reached and not saved yet."""
        self._at: Key | None = None
        """The last moment."""
        self._pending: tuple[Taken, dict[str, Pending], list[Session]] | None = None

    def passed(self, session: Session, key: Key, size: int) -> None:
        """The run, whose state has `size` bytes, stands at `key`: ask for a save if one is wanted there, or still."""
        self.collect()
        self._at = key
        if key in self._spec.points and session.progress.attempt == 1:
            self._wanted.append(key)
        if not self._wanted:
            return
        free = shutil.disk_usage(self._spec.runs).free
        if free < MARGIN * size:
            why = f"{free >> 20} MiB are free where the scratch is, too little for a state of {size >> 20} MiB"
            self._write(Taken(self._wanted, key, "", why))
            self._wanted = []
        else:
            session.want_save()

    def saved(self, pending: Pending) -> None:
        """A checkpoint is taken of the moment that was passed last."""
        if not self._wanted or self._at is None:
            return
        others = {place: one for place, one in self._open_runs().items() if place != self._scratch}
        saves = {place: one.save_now() for place, one in others.items()}
        found = {self._scratch: pending, **{place: one for place, one in saves.items() if one is not None}}
        self._pending = Taken(self._wanted, self._at), found, list(others.values())
        self._wanted = []

    def collect(self) -> None:
        """Put aside what was saved, before other checkpoints of these steps take their place."""
        if self._pending is None:
            return
        (taken, pending, others), self._pending = self._pending, None
        for session in [*others, *self._open_runs().values()]:
            session.saver.wait()
        if not all(one.done() for one in pending.values()):
            self._wanted = (
                taken.wanted
            )  # tensors moved while they were copied: it is taken again, from what is there now
            return
        problems = [str(one.problem) for one in pending.values() if one.problem is not None]
        if problems:
            taken.why_not = f"the checkpoint could not be written: {problems[0]}"
        elif not self._spec.kill:  # else it stays where it is, for the process that is started again there
            at = taken.at
            place = self._place(f"{at.step}-{at.epoch}-{at.batch}-{at.phase}-{at.asker.encode().hex()}"[:120])
            for run in Path(self._spec.runs).iterdir():
                one = pending.get(str(run))
                put_aside(run, place / run.name, None if one is None else one.step)
            taken.folder = str(place)
        self._write(taken)
        if self._spec.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def _write(self, taken: Taken) -> None:
        path = self._place("taken.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(msgspec.json.encode(taken) + b"\n")

    def _place(self, name: str) -> Path:
        assert self._spec.saved is not None
        return Path(self._spec.saved, os.path.basename(self._scratch), name)


def put_aside(run: Path, target: Path, step: int | None) -> None:
    """Copy the run directory `run` as a process that was killed after `step` would have left it (None: as it is), by links."""
    target.mkdir(parents=True)
    for entry in run.iterdir():
        there = names.parse_step(entry.name)
        if entry.is_symlink() or (there is not None and step is not None and there > step):
            continue
        if there is not None:
            shutil.copytree(entry, target / entry.name, copy_function=os.link)
        elif entry.name == names.ATTEMPTS:
            (target / names.ATTEMPTS).mkdir()
            for path in entry.glob("*.json"):
                record = msgspec.json.decode(path.read_bytes(), type=Record)
                if step is not None:
                    record.ended = None
                (target / names.ATTEMPTS / path.name).write_bytes(msgspec.json.encode(record))
        elif entry.is_dir():
            shutil.copytree(entry, target / entry.name)
        else:
            shutil.copy2(entry, target)


def read_taken(saved: Path, run: str) -> list[Taken]:
    """What a process put aside of `run` in its folder `saved`, in order."""
    path = saved / run / "taken.jsonl"
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Taken) for line in path.read_bytes().splitlines()]
