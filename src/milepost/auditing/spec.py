"""What an audited process is told to do, and where."""

from __future__ import annotations

import msgspec

from milepost.auditing.records import Key

MOST_LOG = 1 << 28
"""Bytes that the first process may write down before it is ended, as when its time is over."""
LOOPS = "loops"
"""Folders in that of logs with the names of the loops that read a loader with workers, or something else."""
EARLY = "ended-early"
"""The file in the folder of logs that says that the script was ended before its time."""


class Spec(msgspec.Struct, omit_defaults=True):
    """What an audited process is to do.

    `runs` holds scratch run directories, `log` takes what is written down, `points` is where to save (into `saved`; None switches
    saving off), `end` is the moment after which the script is ended, or the number of steps, `seconds` how long it may take;
    `kill` ends the process by SIGKILL as soon as the first of `points` is saved; `workers` is how many every loader has, whatever
    the script says; `home` is the working directory of which `cwd` may be a copy; `opened` are the runs that the script is known to
    open (name in `runs` -> run directory), `inputs` names of those that it only reads, `given` other files of the person's in runs
    that it cannot do without (see `milepost.ops.redirected` and `milepost.auditing.files.run_files`); `run` is the name of
    the run that is audited (empty: not known).
    """

    runs: str
    log: str
    cwd: str
    points: list[Key] = []
    saved: str | None = None
    end: Key | None = None
    steps: int | None = None
    seconds: float | None = None
    kill: bool = False
    workers: int | None = None
    home: str = ""
    opened: dict[str, str] = {}
    inputs: list[str] = []
    given: list[str] = []
    run: str = ""
