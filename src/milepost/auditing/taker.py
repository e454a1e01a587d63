"""Takes checkpoints where the audit wants them, and puts them aside.

A run may stand where no checkpoint can be taken (amid gathered gradients, or an inner loop's second batch). The save then waits for
the next place that can be continued from, and what is written down says where that was.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import msgspec

from milepost.auditing.records import Key
from milepost.auditing.spec import Spec
from milepost.pipeline.persist import Pending
from milepost.training.session import Session

MARGIN = 2
"""Nothing is saved unless so many times its size are free."""


class Taken(msgspec.Struct, omit_defaults=True):
    """One checkpoint that was put aside: for the points `wanted`, at the moment `at`, in `folder`; or why it was not."""

    wanted: list[Key]
    at: Key
    folder: str = ""
    why_not: str = ""


class Taker:
    """Saves one run where it is told to.

    Args:
        spec: where; `saved` is not None.
        scratch: the run directory.
    """

    def __init__(self, spec: Spec, scratch: str) -> None:
        self._spec, self._scratch = spec, scratch
        self._wanted: list[Key] = []
        """Points that are reached and not saved yet."""
        self._at: Key | None = None
        """The last moment."""
        self._pending: tuple[Pending, Taken] | None = None

    def passed(self, session: Session, key: Key, size: int) -> None:
        """The run, whose state has `size` bytes, stands at `key`: ask for a save if one is wanted there, or still."""
        self.collect(session)
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
        if self._wanted and self._at is not None:
            self._pending = pending, Taken(self._wanted, self._at)
            self._wanted = []

    def collect(self, session: Session) -> None:
        """Put aside what was saved, before another checkpoint of that step takes its place."""
        if self._pending is None:
            return
        (pending, taken), self._pending = self._pending, None
        session.saver.wait()
        if not pending.done():  # its tensors moved while they were copied: it is taken again, from what is there now
            self._wanted = taken.wanted
            return
        if pending.problem is not None:
            taken.why_not = f"the checkpoint could not be written: {pending.problem}"
        else:
            taken.folder = self._put_aside(pending.result().folder, taken.at)
        self._write(taken)
        if self._spec.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def _put_aside(self, folder: str, at: Key) -> str:
        place = self._place(f"{at.step}-{at.epoch}-{at.batch}-{at.phase}-{at.asker.encode().hex()}"[:120])
        if not self._spec.kill:  # it stays where it is then, for the process that is started again there
            shutil.copytree(Path(self._scratch, folder), place / folder, copy_function=os.link)
        return str(place / folder)

    def _write(self, taken: Taken) -> None:
        path = self._place("taken.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(msgspec.json.encode(taken) + b"\n")

    def _place(self, name: str) -> Path:
        assert self._spec.saved is not None
        return Path(self._spec.saved, os.path.basename(self._scratch), name)


def read_taken(saved: Path, run: str) -> list[Taken]:
    """What a process put aside of `run` in its folder `saved`, in order."""
    path = saved / run / "taken.jsonl"
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Taken) for line in path.read_bytes().splitlines()]
