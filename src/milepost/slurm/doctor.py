"""What is wrong or risky about a run, where it is to be trained, and how to mend it: `examine`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from milepost.errors import MilepostError, SlurmError
from milepost.folder.lineage import of_run
from milepost.folder.run import RunFolder
from milepost.ops.listing import life_of
from milepost.ops.redirected import redirected
from milepost.slurm.control import available
from milepost.slurm.end_time import ask_end
from milepost.slurm.job import Job, Reach
from milepost.slurm.queue import has_ended, state_of
from milepost.slurm.site import Site, site_or_none
from milepost.storage.base import FULL
from milepost.storage.local import LocalStorage
from milepost.storage.trial import LAZY, MEMORY, NODE_LOCAL, SPEED_BYTES, Mount, Trial, existing, mount_of, trial

CLOCK_SECONDS = 5.0
"""A clock that is off by more than that makes ages of heartbeats and limits wrong."""
CHECKPOINTS_OF_ROOM = 3
LEAST_ROOM = 1 << 30
MAKE_ROOM = "make room: `milepost prune --dry-run` shows what could go"


class Level(StrEnum):
    """How bad it is."""

    WRONG = "wrong"
    """Work will be lost, or the run cannot go on."""
    RISK = "risk"
    """Work may be lost."""
    FINE = "fine"


class Finding(NamedTuple):
    """One thing that was looked at: what it is about, what was found, and what to do about it."""

    level: Level
    about: str
    found: str
    mend: str = ""


def examine(directory: str, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look at everything, the worst first. `directory` need not be there yet; nothing is left in it.

    Raises:
        StorageError: the run directory cannot be read.
    """
    place = Path(os.path.abspath(redirected(directory)))
    job, site = Job.here(environment), site_or_none()
    nbytes = newest_bytes(place)
    findings = [*of_versions(), *of_files(place, nbytes, job, site), *of_attempts(place, job), *of_job(job, site)]
    return sorted(findings, key=lambda one: list(Level).index(one.level))


def newest_bytes(place: Path) -> int | None:
    """The size of the newest checkpoint of the run at `place`; None if there is none."""
    try:
        line = of_run(RunFolder.open(LocalStorage(place)))
    except MilepostError:
        return None
    return next((one.summary.bytes for one in line if one.summary is not None), None)


def of_versions() -> Iterator[Finding]:
    """Python's and PyTorch's, without importing it."""
    told = f"Python {platform.python_version()}"
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        yield Finding(Level.FINE, "versions", told)
        return
    told += f", torch {torch}"
    if tuple(int(part) for part in torch.split("+")[0].split(".")[:2] if part.isdecimal()) < (2, 6):
        yield Finding(Level.WRONG, "versions", told, "milepost needs torch 2.6 or newer: pip install -U torch")
    else:
        yield Finding(Level.FINE, "versions", told)


def of_files(place: Path, nbytes: int | None, job: Job | None, site: Site | None) -> Iterator[Finding]:
    """The file system of the run directory."""
    above = existing(place)
    mount = mount_of(above)
    yield _of_mount(mount, place, on_cluster=job is not None or site is not None)
    try:
        can = trial(above)
    except OSError as error:
        if error.errno in FULL:
            found = f"not even for {SPEED_BYTES / 1e6:.0f} MB: {error.strerror} ({above})"
            yield Finding(Level.WRONG, "room", found, MAKE_ROOM)
        else:
            mend = "choose another run directory, or get permission"
            yield Finding(Level.WRONG, "run directory", f"cannot be written: {error.strerror} ({above})", mend)
        return
    yield from of_trial(can, nbytes)
    yield from _of_time(can, nbytes, job)


def _of_mount(mount: Mount, place: Path, *, on_cluster: bool) -> Finding:
    where = f"{place} is on {mount.point} ({mount.type})"
    if mount.type in MEMORY:
        return Finding(Level.WRONG, "run directory", f"{where}: in memory, gone with the machine", "use a disk")
    if mount.type in NODE_LOCAL and on_cluster:
        mend = "use a directory that all nodes share, unless the job always comes back to this node"
        return Finding(Level.RISK, "run directory", f"{where}: this node's own disk, as it seems", mend)
    if mount.type in LAZY:
        mend = "go on where the last attempt ran, or wait a minute after it before the next is started by hand"
        return Finding(Level.RISK, "run directory", f"{where}: other nodes may see files late", mend)
    return Finding(Level.FINE, "run directory", where)


def of_trial(can: Trial, nbytes: int | None) -> Iterator[Finding]:
    """What the file system can do, and how much room there is."""
    if not can.rename_replaces:
        yield Finding(Level.WRONG, "renaming", "does not replace a file in one step", "use another file system")
    if not can.locks:
        mend = "attempts tell by heartbeat alone whether another lives: wait a minute before a restart by hand"
        yield Finding(Level.RISK, "locks", "there are none", mend)
    if not can.links:
        mend = "every checkpoint takes its full size: mind the room, and Keep(last=)"
        yield Finding(Level.RISK, "hard links", "there are none", mend)
    if not (can.exchange and can.symlinks):
        missing = " and ".join(
            name for name, there in (("swapping names", can.exchange), ("symbolic links", can.symlinks)) if not there
        )
        yield Finding(Level.FINE, "names", f"{missing}: not possible, and done without")
    wanted = CHECKPOINTS_OF_ROOM * nbytes if nbytes is not None else LEAST_ROOM
    room = f"{can.free / 1e9:.1f} GB free"
    if can.free >= wanted:
        yield Finding(Level.FINE, "room", room)
    elif nbytes is None:
        yield Finding(Level.RISK, "room", f"{room}, which is little", MAKE_ROOM)
    else:
        room += f", {CHECKPOINTS_OF_ROOM} checkpoints of the size of the newest take {wanted / 1e9:.1f} GB"
        yield Finding(Level.RISK, "room", room, MAKE_ROOM)
    if abs(can.clock) > CLOCK_SECONDS:
        mend = "have the clocks of both machines set (NTP): ages of heartbeats and limits are wrong until then"
        yield Finding(Level.RISK, "clock", f"the file system's is {can.clock:+.0f} s from this machine's", mend)


def _of_time(can: Trial, nbytes: int | None, job: Job | None) -> Iterator[Finding]:
    if nbytes is None:
        return
    seconds = nbytes / can.speed
    told = f"the newest checkpoint ({nbytes / 1e9:.2f} GB) takes about {seconds:.0f} s to write here"
    left = _left(job)
    if left is not None and left < 2 * seconds:
        mend = "ask for more time: scontrol update JobId=... TimeLimit=..., or a longer --time"
        yield Finding(Level.WRONG, "time limit", f"{left:.0f} s are left, and {told}", mend)
    else:
        yield Finding(Level.FINE, "saving", told)


def _left(job: Job | None) -> float | None:
    if job is None:
        return None
    try:
        end = ask_end(job, 10.0)
    except SlurmError:
        end = job.end
    return None if end is None else end - time.time()


def of_attempts(place: Path, job: Job | None) -> Iterator[Finding]:
    """Whether another attempt lives."""
    try:
        life = life_of(RunFolder.open(LocalStorage(place)))
    except MilepostError:
        yield Finding(Level.FINE, "attempts", "there is no run here yet")
        return
    owner = life.owner
    if owner is None:
        yield Finding(Level.FINE, "attempts", f"{life.attempts}, the last one: {life.state}")
        return
    who = f"process {owner.pid} on {owner.host}" + (f", job {owner.slurm_job}" if owner.slurm_job else "")
    if job is not None and owner.slurm_job == job.id and owner.restart_count < job.restarts:
        yield Finding(Level.FINE, "attempts", f"{who} lives, and will be fenced: this is the same job, requeued")
    elif job is not None and owner.slurm_job is not None and has_ended(owner.slurm_job):
        yield Finding(Level.FINE, "attempts", f"{who} was heard of less than a minute ago, but that job is over")
    else:
        mend = "wait for it, stop it, or start with takeover=True, which fences it"
        yield Finding(Level.WRONG, "attempts", f"another is alive: {who}", mend)


def of_job(job: Job | None, site: Site | None) -> Iterator[Finding]:
    """The Slurm job, or what Slurm here means for one."""
    if job is None:
        if site is not None:
            requeue = "are requeued" if site.requeues else "are requeued only if they ask for it (--requeue)"
            yield Finding(Level.FINE, "Slurm", f"this is no job; jobs here {requeue}; proctrack/{site.proctrack}")
        return
    if job.reach is Reach.CHILD:
        tracked = site is None or site.proctrack == "cgroup"
        found = "no signal will reach this process, a plain child of the batch script" + (
            "" if tracked else f" (perhaps: proctrack/{site.proctrack if site else ''})"
        )
        yield Finding(Level.WRONG if tracked else Level.RISK, "signals", found, "put srun or exec before the command")
    else:
        yield Finding(Level.FINE, "signals", f"reach this process ({job.reach.value})")
    if not available("scontrol"):
        mend = "bind Slurm's commands into the container, or use a script of `milepost slurm script --container`"
        yield Finding(Level.RISK, "requeue", "scontrol is not here: the job cannot requeue itself", mend)
        return
    try:
        told = state_of(job)
    except SlurmError as problem:
        yield Finding(Level.RISK, "Slurm", f"does not answer: {problem.message}", "pass time_limit= to Checkpointer")
        return
    if not told.state:
        yield Finding(Level.RISK, "Slurm", f"does not know job {job.name}", "pass time_limit= to Checkpointer")
    elif not told.batch:
        mend = "submit a job script with sbatch, or run the same command again after each stop"
        yield Finding(Level.RISK, "requeue", f"job {job.name} cannot be requeued: it is no batch job", mend)
    elif not told.requeues:
        mend = "submit with --requeue, or a chain: milepost slurm submit --chain"
        yield Finding(Level.RISK, "requeue", f"not allowed for job {job.name}", mend)
    else:
        yield Finding(Level.FINE, "requeue", f"job {job.name} may go back into the queue")
