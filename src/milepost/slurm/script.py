"""Job scripts that a run survives in: `write`. The script says why each line is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from milepost.core.text import safe
from milepost.errors import ScriptError
from milepost.slurm import jupyter
from milepost.slurm.site import Site, seconds

_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?")
LONGEST_CHAIN = 50
"""Jobs in a chain: a mistake must not fill the queue."""


@dataclass(frozen=True)
class Wanted:
    """What a person asked for.

    Args:
        command: the words of the training command.
        time: the limit of one job, as Slurm writes it or as in "4h".
        warning: seconds before the limit at which Slurm sends the signal.
        signal: which.
        options: further ones of sbatch, name -> value: ``{"partition": "gpu"}``.
        requeue: whether the job goes back into the queue; else a chain of jobs is meant.
        array: of tasks, as in "0-9"; each has a run of its own, in whose name ``$SLURM_ARRAY_TASK_ID`` stands.
        modules: lines to be run first, such as "module load cuda"; written as they are, never executed here.
        container: the words before the command that run it in a container.
        data: a data set that is brought to the disk of each node first; the command finds its path in ``$DATA_DIR``.
    """

    command: Sequence[str]
    time: str = "4h"
    warning: int = 120
    signal: str = "USR1"
    options: dict[str, str] = field(default_factory=dict)
    requeue: bool = True
    array: str | None = None
    modules: Sequence[str] = ()
    container: Sequence[str] = ()
    data: str | None = None
    jupyterlab: bool = False
    """JupyterLab in place of a command."""
    proxy: str | None = None
    """The site's proxy for it: see `milepost.slurm.jupyter.lines`."""


def write(wanted: Wanted, site: Site | None = None) -> str:
    """The job script.

    Raises:
        ScriptError: a value that would not stay in its line, a time that is none, or a limit beyond that of the partition.

    Example:
        >>> print(write(Wanted(["python", "train.py"], time="4h")))
        #!/bin/bash
        #SBATCH --job-name=train
        ...
    """
    if bool(wanted.command) == wanted.jupyterlab:
        raise ScriptError("there is no command", expected="as in: milepost slurm script -- python train.py")
    if wanted.proxy is not None and not wanted.jupyterlab:
        raise ScriptError("--proxy is for --jupyterlab")
    if wanted.jupyterlab and wanted.array:
        raise ScriptError("JupyterLab is not for an array of jobs")
    limit = time_limit(wanted.time)
    allowed = _allowed(wanted, site)
    if allowed is not None and (seconds(limit) or 0) > allowed:
        raise ScriptError(
            "the partition does not allow jobs of that length",
            expected=f"--time of at most {allowed / 3600:g} hours",
            found=limit,
            hint="a shorter job does as well: the run goes on in the next",
        )
    if not re.fullmatch(r"[A-Z0-9]+", wanted.signal) or wanted.warning < 1:
        raise ScriptError("--signal and --warning are a name and seconds", found=f"{wanted.signal}@{wanted.warning}")
    output = "%x-%A_%a.out" if wanted.array else "%x-%j.out"
    rows = [
        ("job-name", name_of(wanted.command or jupyter.COMMAND), ""),
        (
            "time",
            limit,
            "" if wanted.jupyterlab else "the run goes on in the next job, so that shorter ones do, which start sooner",
        ),
        (
            "signal",
            f"{wanted.signal}@{wanted.warning}",
            "a warning before the end: the state is saved, whatever the policy",
        ),
        ("requeue" if wanted.requeue else "no-requeue", None, _about_requeue(wanted, site)),
        ("open-mode", "append", "the next job goes on in the same output file"),
        ("output", output, ""),
    ]
    if wanted.jupyterlab:  # whose kernels get no signals; and nobody looks for it where it would begin again
        rows = [row for row in rows if row[0] != "signal"]
        rows[2] = ("no-requeue", None, "a person starts it again")
    if wanted.array:
        rows.append(("array", wanted.array, "each task trains a run of its own: its run directory names the task"))
    given = {name.removeprefix("--") for name in wanted.options}
    rows = [row for row in rows if row[0] not in given]
    rows += [(name.removeprefix("--"), value, "") for name, value in wanted.options.items()]
    lines = [directive(name, value) for name, value, _ in rows]
    width = max(len(line) for line, (_, _, why) in zip(lines, rows, strict=True) if why)
    told = [f"{line:{width}}  # {why}".rstrip() if why else line for line, (_, _, why) in zip(lines, rows, strict=True)]
    text = ["#!/bin/bash", *told, ""]
    text += [*wanted.modules, ""] if wanted.modules else []
    if wanted.data is not None:
        text += [
            "# The data goes to the disk of each node, again after each requeue; what is there already is left.",
            'DATA_DIR=$(srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 '
            f"milepost slurm stage -- {shlex.quote(wanted.data)} | head -n 1)",
            '[ -n "$DATA_DIR" ] || exit 1',
            "export DATA_DIR",
            "",
        ]
    if wanted.jupyterlab:
        return "\n".join([*text, *jupyter.lines(wanted.container, wanted.proxy)]) + "\n"
    text += [
        "# srun, so that Slurm's signals reach the training: a plain child of this script gets none where processes are",
        "# tracked by cgroup" + (" (as on this cluster)." if site and site.proctrack == "cgroup" else "."),
        "srun " + _words([*wanted.container, *wanted.command], wanted.array),
    ]
    text += _in_container() if wanted.container and wanted.requeue else []
    return "\n".join(text) + "\n"


def directive(name: str, value: str | None) -> str:
    """One ``#SBATCH`` line.

    Raises:
        ScriptError: the name is none, or the value has characters that would end the line, or hide something in it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ScriptError("that is no option of sbatch", found=safe(name))
    if value is None:
        return f"#SBATCH --{name}"
    if safe(value) != value or '"' in value or "\\" in value:
        raise ScriptError(
            f"the value of --{name} cannot stand in a job script",
            expected="one line without control characters, double quotes and backslashes",
            found=safe(value),
        )
    return f"#SBATCH --{name}={value}" if re.fullmatch(r"[^\s#'\"]+", value) else f'#SBATCH --{name}="{value}"'


def time_limit(text: str) -> str:
    """A time as Slurm writes it.

    Example:
        >>> time_limit("4h"), time_limit("1d12h"), time_limit("90"), time_limit("02:30:00")
        ('04:00:00', '1-12:00:00', '90', '02:30:00')
    """
    found = _UNITS.fullmatch(text)
    if text and found is not None:
        days, hours, minutes = (int(part or 0) for part in found.groups())
        hours, minutes = hours + minutes // 60, minutes % 60
        days, hours = days + hours // 24, hours % 24
        return (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:00"
    if seconds(text) is None:
        raise ScriptError(
            "that is no time limit", expected='as in "4h", "1d12h", "02:30:00" or minutes', found=safe(text)
        )
    return text


def name_of(command: Sequence[str]) -> str:
    """A name for the job: the script's."""
    script = next((word for word in command if word.endswith((".py", ".sh"))), command[0])
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", PurePath(script).stem) or "train"


def _allowed(wanted: Wanted, site: Site | None) -> float | None:
    if site is None:
        return None
    partition = wanted.options.get("partition") or wanted.options.get("--partition") or site.default
    return site.limits.get(partition or "")


def _about_requeue(wanted: Wanted, site: Site | None) -> str:
    if not wanted.requeue:
        return "a chain of jobs goes on instead: milepost slurm submit --chain"
    if site is not None and not site.requeues:
        return "after the warning, and when a node fails; this cluster does so only if asked"
    return "after the warning, after preemption, and when a node fails"


def _words(words: Sequence[str], array: str | None) -> str:
    """A command line. In an array the number of the task must stay a variable; nothing else is one."""
    line = shlex.join(words)
    if not array:
        return line
    return line.replace("'", "\0").replace("$SLURM_ARRAY_TASK_ID", '\0"$SLURM_ARRAY_TASK_ID"\0').replace("\0", "'")


def _in_container() -> list[str]:
    return [
        "code=$?",
        "",
        "# Exit code 75: saved, to be continued. In the container there may be no scontrol; here there is. A job that is no longer",
        "# running is being ended by Slurm: one that was cancelled must not come back.",
        "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; job=${job:-$SLURM_JOB_ID}",
        'if [ $code = 75 ] && [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ]; then',
        '    scontrol requeue "$job"',
        "fi",
        "exit $code",
    ]
