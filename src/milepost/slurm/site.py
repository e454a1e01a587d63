"""How this cluster is set up, as far as it can be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from milepost.errors import SlurmError
from milepost.slurm.control import ask

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True)
class Site:
    """What matters to a job script. `limits` has the longest time of each partition in seconds, None for any; `default` is the
    partition of jobs that name none."""

    proctrack: str
    requeues: bool
    limits: dict[str, float | None]
    default: str | None


def read_site() -> Site:
    """Ask Slurm.

    Raises:
        SlurmError: it cannot be asked here.
    """
    told = dict(re.findall(r"^(\w+)\s*= (.*)$", ask("scontrol", "show", "config"), re.MULTILINE))
    limits: dict[str, float | None] = {}
    default = None
    for line in ask("sinfo", "--all", "--noheader", "--format=%P %l").splitlines():
        name, _, limit = line.strip().partition(" ")
        if name.endswith("*"):
            name = default = name[:-1]
        limits[name] = seconds(limit)
    return Site(
        proctrack=told.get("ProctrackType", "").partition("/")[2],
        requeues=told.get("JobRequeue") == "1",
        limits=limits,
        default=default,
    )


def site_or_none() -> Site | None:
    """The same where Slurm may be missing."""
    try:
        return read_site()
    except SlurmError:
        return None


def seconds(text: str) -> float | None:
    """A time in one of Slurm's forms in seconds; None if it is none of them ("infinite").

    Example:
        >>> seconds("1-02:00:00"), seconds("30"), seconds("30:10"), seconds("infinite")
        (93600.0, 1800.0, 1810.0, None)
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    days, *parts = (int(part) if part is not None else None for part in found.groups())
    first, second, third = parts
    assert first is not None
    if days is not None:  # days-hours, days-hours:minutes, days-hours:minutes:seconds
        return float(((days * 24 + first) * 60 + (second or 0)) * 60 + (third or 0))
    if third is not None:
        return float((first * 60 + (second or 0)) * 60 + third)
    return float(first * 60 + (second or 0))  # minutes, or minutes:seconds
