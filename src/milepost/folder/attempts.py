"""Attempts: one process life of a run each. Who may write, who must stop, and what continues what.

Fencing. Everything an attempt writes is under ``attempts/N.work`` until one rename makes it visible. A newcomer
renames that folder away
*before* it lists checkpoints: a commit of the earlier attempt either happened before (and is listed) or fails with ENOENT, and that
attempt knows that it was fenced. There is no moment at which it could check that it is still the owner and then be overtaken.

Life. An attempt holds a lock on ``attempts/N.lock`` and sets its modification time every few seconds. On the machine
that holds the lock (and where the file system tells across machines) the lock decides; elsewhere the heartbeat does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from milepost.core.manifest import SUMMARY_BYTES, decode_summary
from milepost.core.readjson import Unreadable, read_json
from milepost.errors import DamagedError, MilepostError, RunBusy
from milepost.folder import names
from milepost.folder.fencing import fence
from milepost.storage.base import Lock, Storage
from milepost.storage.local import TEMPORARY

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0


class Parent(msgspec.Struct, omit_defaults=True, frozen=True):
    """The checkpoint an attempt continues. `run` is set if it is in another run directory (a fork)."""

    attempt: int
    step: int
    run: str | None = None


class Owner(msgspec.Struct, omit_defaults=True, frozen=True):
    """The process behind an attempt, written into its lock file. `boot` tells two lives of one machine apart."""

    host: str
    pid: int
    boot: str = ""
    slurm_job: str | None = None
    restart_count: int = 0

    @classmethod
    def here(cls) -> Owner:
        """The process that asks."""
        boot = Path("/proc/sys/kernel/random/boot_id")
        return cls(
            socket.gethostname(),
            os.getpid(),
            boot.read_text().strip() if boot.exists() else "",
            os.environ.get("SLURM_JOB_ID"),
            int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        )


class OnNode(msgspec.Struct, frozen=True):
    """The newest checkpoint that an attempt wrote to the disk of its node: which host, which folder."""

    host: str
    path: str
    step: int


class Record(msgspec.Struct, omit_defaults=True):
    """``attempts/N.json``. `branch` is the REF that opened this branch; a later attempt that names the same REF continues it.

    `ended` says how: "complete", "stopped" (by a signal), "closed", "failed". `step` is where
    it ended, `limits` are the lengths the loops were asked for. `id` is random: numbers come again when somebody puts an
    older copy of the run directory back.
    """

    number: int
    owner: Owner
    started: str
    parent: Parent | None = None
    branch: str | None = None
    ended: str | None = None
    step: int | None = None
    limits: dict[str, int] = {}
    overrides: dict[str, Any] = {}
    written_by: dict[str, Any] = {}
    on_node: OnNode | None = None
    id: str = ""


class Attempt:
    """A process's hold on a run: a number, a work folder, a lock and a heartbeat. Made by `claim`."""

    def __init__(self, run: Storage, record: Record, lock: Lock) -> None:
        self.run = run
        self.record = record
        self.work = names.attempt_work(record.number)
        self._began = False
        self._lock = lock
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="milepost-heartbeat", daemon=True)
        self._heart.start()

    @property
    def number(self) -> int:
        """From 1."""
        return self.record.number

    def save_record(self) -> None:
        """Make the record durable as it stands now."""
        data = msgspec.json.format(msgspec.json.encode(self.record), indent=1)
        self.run.write(names.attempt_file(self.number), data, replace=True)
        self.run.sync_dir(names.ATTEMPTS)
        self._began = True

    def fenced(self) -> bool:
        """Whether a newer attempt has taken this one's work folder away."""
        try:
            self.run.stat(self.work)
        except FileNotFoundError:
            return True
        return False

    def end(self, how: str) -> None:
        """Say how the attempt ended, remove its work folder and let go of the run.

        An attempt that failed before its record was saved leaves none: the next one continues what it would have.
        """
        self._stop.set()
        self._heart.join()
        try:
            if not self.fenced():
                self.record.ended = how
                if self._began:
                    self.save_record()
                fence(self.run, self.number)
        finally:
            self._lock.release()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self.run.touch(names.attempt_lock(self.number))
            except OSError:
                # A full or unreachable disk stops the heart for now; the lock, and the next beat, still tell.
                continue


def claim(
    run: Storage, *, takeover: bool = False, has_ended: Callable[[int, Owner], bool] = lambda number, owner: False
) -> Attempt:
    """Open the next attempt of `run`, after fencing all earlier ones.

    Args:
        run: the run directory.
        takeover: also one that is alive.
        has_ended: asked of an attempt that seems to be alive: whether it is known from elsewhere that it is not.

    Raises:
        RunBusy: an earlier attempt is alive, and neither `takeover` nor a requeue of the same Slurm job allows to go on.
        OSError: the storage refused.
    """
    owner = Owner.here()
    while True:
        numbers = attempt_numbers(run)
        if not takeover:
            _refuse_if_alive(run, numbers, owner, has_ended)
        number = max([0, *numbers, *_attempts_that_saved(run)]) + 1
        lock = _take_number(run, number, owner)
        if lock is not None:
            break
    try:
        for earlier in numbers:
            fence(run, earlier)
        run.make_folder(names.attempt_work(number))
        run.sync_dir(names.ATTEMPTS)
        newest = attempt_numbers(run)[-1]
        if newest != number:
            # It may have fenced this one when there was no work folder to take away yet.
            run.remove_tree(names.attempt_work(number))
            raise RunBusy(f"attempt {newest} was started at the same time and has the run", where=run.root)
        _sweep(run, run.stat(names.attempt_lock(number)).mtime)
    except BaseException:
        lock.release()
        raise
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Attempt(run, Record(number, owner, started, id=secrets.token_hex(8)), lock)


def _sweep(run: Storage, now: float) -> None:
    """Remove files that were to have another name, or none, a moment later, and whose process died in that moment."""
    for folder, hidden in ((names.ATTEMPTS, "."), ("", TEMPORARY)):
        for path in (f"{folder}/{name}".lstrip("/") for name in run.list(folder) if name.startswith(hidden)):
            with contextlib.suppress(FileNotFoundError):  # somebody else has just removed it
                if now - run.stat(path).mtime > DEAD_AFTER_SECONDS:
                    run.remove(path)


def _take_number(run: Storage, number: int, owner: Owner) -> Lock | None:
    """Make the lock file of attempt `number`, already locked when it appears; None if somebody was faster."""
    target = names.attempt_lock(number)
    draft = f"{names.ATTEMPTS}/.{secrets.token_hex(8)}.lock"
    run.write(draft, msgspec.json.encode(owner))
    lock = run.lock(draft)
    assert lock is not None, "a file nobody knows of cannot be locked"
    try:
        run.link(draft, target)
    except FileExistsError:
        lock.release()
        run.remove(draft)
        return None
    except OSError:
        # No hard links here: rename would replace a faster newcomer's file, so create the name exclusively and lock it then.
        lock.release()
        run.remove(draft)
        try:
            run.write(target, msgspec.json.encode(owner))
        except FileExistsError:
            return None
        return run.lock(target)
    run.remove(draft)
    return lock


def attempt_numbers(run: Storage) -> list[int]:
    """All attempts that ever claimed a number, ascending."""
    return sorted({number for number, _ in _parsed(run)})


def _attempts_that_saved(run: Storage) -> set[int]:
    # Checkpoints may have been copied without the attempts folder: a number that was in use must not mean somebody else.
    found = set()
    for folder in run.list():
        if names.parse_step(folder) is not None:
            path = f"{folder}/{names.MANIFEST}"
            with contextlib.suppress(OSError, MilepostError):  # one that cannot be read says nothing
                found.add(decode_summary(run.read(path, 0, SUMMARY_BYTES), path).attempt)
    return found


def _parsed(run: Storage) -> list[tuple[int, str]]:
    return [found for name in run.list(names.ATTEMPTS) if (found := names.parse_attempt(name)) is not None]


def read_record(run: Storage, number: int) -> Record | None:
    """The record of attempt `number`; None if it never wrote one (it died before its first step).

    Raises:
        DamagedError: there is one that cannot be read.
    """
    path = names.attempt_file(number)
    try:
        return read_json(run.read(path), Record)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        raise DamagedError(
            "the record of an attempt cannot be read", where=f"{run.root}/{path}", found=error
        ) from error


def alive(run: Storage, number: int, *, may_write: bool = True) -> tuple[Owner | None, float]:
    """Who holds attempt `number` (None if it is dead), and the age of its last heartbeat in seconds.

    The age is by the storage's clock, which takes a file to tell; with ``may_write=False`` it is by this machine's, and the run is
    left untouched.
    """
    path = names.attempt_lock(number)
    try:
        owner = read_json(run.read(path), Owner)
        last = run.stat(path).mtime
    except (FileNotFoundError, Unreadable):
        return None, 0.0
    record = _read_quietly(run, number)
    if record is not None and record.ended:
        return None, 0.0
    age = max(0.0, (_now(run) if may_write else time.time()) - last)
    if run.locked(path):
        return owner, age
    here = Owner.here()
    if owner.host == here.host:  # the lock tells for sure, and nobody holds it
        return None, age
    return (owner, age) if age < DEAD_AFTER_SECONDS else (None, age)


def _read_quietly(run: Storage, number: int) -> Record | None:
    try:
        return read_record(run, number)
    except DamagedError:
        return None  # the lock and the heartbeat still tell whether it lives


def _now(run: Storage) -> float:
    """The storage's own clock: the clocks of two machines may differ, heartbeats are compared with it."""
    probe = f"{names.ATTEMPTS}/.{secrets.token_hex(8)}.now"
    run.write(probe, b"")
    try:
        return run.stat(probe).mtime
    finally:
        run.remove(probe)


def _refuse_if_alive(
    run: Storage, numbers: Sequence[int], newcomer: Owner, has_ended: Callable[[int, Owner], bool]
) -> None:
    # The newest may not have got as far as a work folder; an earlier one that has one was never fenced, if whoever wanted to died
    # before it could.
    unfenced = {number for number, ending in _parsed(run) if ending == "work"}
    for number in sorted(unfenced.union(numbers[-1:]), reverse=True):
        owner, age = alive(run, number)
        if owner is None:
            continue
        requeued = owner.slurm_job is not None and owner.slurm_job == newcomer.slurm_job
        if (requeued and newcomer.restart_count > owner.restart_count) or has_ended(number, owner):
            continue
        hint = "wait for it, stop it, or pass takeover=True to fence it"
        if requeued:
            hint = "several tasks of this job open the run: open it in one of them, or give each a run directory of its own"
        raise RunBusy(
            f"attempt {number} of this run is alive: process {owner.pid} on {owner.host}, last heard of {age:.0f} s ago",
            where=run.root,
            hint=hint,
        )
