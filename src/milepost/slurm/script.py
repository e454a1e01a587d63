"""Job scripts that a run survives in: `write`. The script says why each line is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

from milepost.core.text import safe
from milepost.errors import ScriptError
from milepost.slurm import jupyter
from milepost.slurm.site import Site, seconds

_UNITS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?")
_ARRAY = re.compile(r"\d+(?:-\d+(?::\d+)?)?(?:,\d+(?:-\d+(?::\d+)?)?)*(?:%\d+)?")
LONGEST_CHAIN = 50
"""Jobs in a chain: a mistake must not fill the queue."""
SIGNALS = ("USR1", "USR2", "TERM", "INT", "HUP", "QUIT", "ALRM", "URG")
"""Those that sbatch can send and a process can answer. A run answers the first three, others if ``signals=`` says so."""
WARNING_SECONDS = 120
"""Before the limit, or a quarter of a limit for which that is much."""
LONGEST_WARNING = 65535
"""What sbatch can express."""
OWN = {
    "time": "--time",
    "signal": "--signal",
    "array": "--array",
    "requeue": "--no-requeue",
    "no-requeue": "--no-requeue",
}
"""Options of sbatch that belong to one of `milepost slurm script` -> which."""
TASK = "SLURM_ARRAY_TASK_ID"
DATA = "DATA_DIR"


@dataclass(frozen=True)
class Wanted:
    """What a person asked for.

    Args:
        command: the words of the training command. In them, ``$DATA_DIR`` stands for the data on the node if `data` is given, and
            ``$SLURM_ARRAY_TASK_ID`` for the number of the task in an array; nothing else is a variable.
        time: the limit of one job, as Slurm writes it or as in "4h".
        warning: seconds before the limit at which Slurm sends the signal; None for `WARNING_SECONDS`.
        signal: which.
        options: further ones of sbatch, name -> value: ``{"partition": "gpu"}``; None for one that has no value.
        requeue: whether the job goes back into the queue; else a chain of jobs is meant.
        array: of tasks, as in "0-9"; each has a run of its own, in whose name ``$SLURM_ARRAY_TASK_ID`` stands.
        modules: lines to be run first, such as "module load cuda"; written as they are, never executed here.
        container: the words before the command that run it in a container.
        data: a data set that is brought to the disk of each node first.
    """

    command: Sequence[str]
    time: str = "4h"
    warning: int | None = None
    signal: str = "USR1"
    options: Mapping[str, str | None] = field(default_factory=dict)
    requeue: bool = True
    array: str | None = None
    modules: Sequence[str] = ()
    container: Sequence[str] = ()
    data: str | None = None
    jupyterlab: bool = False
    """JupyterLab in place of a command."""
    proxy: str | None = None
    """The site's proxy for it: see `milepost.slurm.jupyter.lines`."""

    @property
    def names_task(self) -> bool:
        """Whether the number of the task stands in the command."""
        return any(len(_parts(word, [TASK])) > 1 for word in self.command)


class _Row(NamedTuple):
    """An option of sbatch, and why it is there."""

    name: str
    value: str | None
    why: str = ""


def write(wanted: Wanted, site: Site | None = None) -> str:
    """The job script.

    Raises:
        ScriptError: a value that would not stay in its line or that Slurm has no meaning for, or a limit beyond that of the
            partition.

    Example:
        >>> print(write(Wanted(["python", "train.py"], time="4h")))
        #!/bin/bash
        #SBATCH --job-name=train
        ...
    """
    _check(wanted)
    runs = jupyter.lines(wanted.container, wanted.proxy) if wanted.jupyterlab else _training(wanted, site)
    parts = [["#!/bin/bash", *_directives(wanted, site)], wanted.modules, _threads(wanted), _data(wanted), runs]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _check(wanted: Wanted) -> None:
    if wanted.jupyterlab and wanted.command:
        raise ScriptError("there is a command and JupyterLab", found=safe(shlex.join(wanted.command)))
    if not wanted.jupyterlab and not any(wanted.command[:1]):
        raise ScriptError("there is no command", expected="as in: milepost slurm script -- python train.py")
    if wanted.proxy is not None and not wanted.jupyterlab:
        raise ScriptError("--proxy is for --jupyterlab")
    if wanted.jupyterlab and wanted.array:
        raise ScriptError("JupyterLab is not for an array of jobs")
    if wanted.array is not None and not _ARRAY.fullmatch(wanted.array):
        raise ScriptError("that is no array of tasks", expected="as in 0-9, 1,3,5 or 0-99%4", found=safe(wanted.array))
    for name in wanted.options:
        if name.removeprefix("--") in OWN:
            raise ScriptError(
                "that has an option of its own here", expected=OWN[name.removeprefix("--")], found=f"--sbatch {name}"
            )


# -- what sbatch reads -------------------------------------------------------------------------------------------------


def _directives(wanted: Wanted, site: Site | None) -> list[str]:
    given = {name.removeprefix("--"): value for name, value in wanted.options.items()}
    rows = [row for row in _rows(wanted, site) if row.name not in given]
    rows += [_Row(name, value) for name, value in given.items()]
    lines = [directive(row.name, row.value) for row in rows]
    width = max((len(line) for line, row in zip(lines, rows, strict=True) if row.why), default=0)
    return [f"{line:{width}}  # {row.why}" if row.why else line for line, row in zip(lines, rows, strict=True)]


def _rows(wanted: Wanted, site: Site | None) -> Iterator[_Row]:
    limit = _limit(wanted, site)
    yield _Row("job-name", name_of(wanted.command or jupyter.COMMAND))
    if wanted.jupyterlab:  # whose kernels get no signals; and nobody looks for it where it would begin again
        yield _Row("time", limit)
        yield _Row("no-requeue", None, "a person starts it again")
        yield _Row("output", "%x-%j.out")
        return
    yield _Row("time", limit, "the run goes on in the next job, so that shorter ones do, which start sooner")
    yield _Row("signal", _signal(wanted, limit), "a warning before the end: the state is saved, whatever the policy")
    yield _Row("requeue" if wanted.requeue else "no-requeue", None, _about_requeue(wanted, site))
    yield _Row("open-mode", "append", "the next job goes on in the same output file")
    yield _Row("output", "%x-%A_%a.out" if wanted.array else "%x-%j.out")
    if wanted.array:
        yield _Row("array", wanted.array, "each task trains a run of its own: its run directory names the task")


def directive(name: str, value: str | None) -> str:
    """One ``#SBATCH`` line.

    Raises:
        ScriptError: the name is none, or the value has characters that would end the line, or hide something in it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ScriptError("that is no option of sbatch", expected='a long name, as in "partition"', found=safe(name))
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
    slurms, found = text, _UNITS.fullmatch(text)
    if text and found is not None:
        days, hours, minutes = (int(part or 0) for part in found.groups())
        hours, minutes = hours + minutes // 60, minutes % 60
        days, hours = days + hours // 24, hours % 24
        slurms = (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:00"
    if not seconds(slurms):  # of nothing, Slurm makes a job without a limit
        raise ScriptError(
            "that is no time limit", expected='as in "4h", "1d12h", "02:30:00" or minutes', found=safe(text)
        )
    return slurms


def _limit(wanted: Wanted, site: Site | None) -> str:
    limit = time_limit(wanted.time)
    longest = _longest(wanted, site) if site is not None else None
    if longest is not None and (seconds(limit) or 0) > longest:
        raise ScriptError(
            "the partition does not allow jobs of that length",
            expected=f"--time of at most {longest / 3600:g} hours",
            found=limit,
            hint="a shorter job does as well: the run goes on in the next",
        )
    return limit


def _longest(wanted: Wanted, site: Site) -> float | None:
    """The longest job in seconds that is allowed where it may run; None for any."""
    given = wanted.options.get("partition") or wanted.options.get("--partition") or site.default
    names = given.split(",") if given else []
    for name in names:
        if name not in site.limits:
            raise ScriptError("there is no such partition here", expected=", ".join(site.limits), found=safe(name))
    limits = [site.limits[name] for name in names]
    return None if not limits or None in limits else max(limit for limit in limits if limit is not None)


def _signal(wanted: Wanted, limit: str) -> str:
    name = wanted.signal.removeprefix("SIG")
    if name not in SIGNALS:
        raise ScriptError("that is no signal to be warned by", expected=", ".join(SIGNALS), found=safe(wanted.signal))
    lasts = int(seconds(limit) or 0)
    warning = min(WARNING_SECONDS, lasts // 4) if wanted.warning is None else wanted.warning
    longest = min(lasts - 1, LONGEST_WARNING)
    if not 1 <= warning <= longest:
        raise ScriptError("--warning is not within the job", expected=f"1 to {longest} seconds", found=str(warning))
    return f"{name}@{warning}"


def _about_requeue(wanted: Wanted, site: Site | None) -> str:
    if not wanted.requeue:
        return "a chain of jobs goes on instead: milepost slurm submit --chain"
    if site is not None and not site.requeues:
        return "after the warning, and when a node fails; this cluster does so only if asked"
    return "after the warning, after preemption, and when a node fails"


def name_of(command: Sequence[str]) -> str:
    """A name for the job: that of the script, notebook or module.

    Example:
        >>> name_of(["python", "src/train.py"]), name_of(["python", "-m", "lab.pretrain"])
        ('train', 'pretrain')
    """
    script = next((PurePath(word).stem for word in command if word.endswith((".py", ".sh", ".ipynb"))), None)
    if script is None and "-m" in command[:-1]:
        script = command[command.index("-m") + 1].rpartition(".")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", script or PurePath(command[0]).stem) or "train"


# -- what the shell reads ----------------------------------------------------------------------------------------------


def _threads(wanted: Wanted) -> list[str]:
    if not {"cpus-per-task", "--cpus-per-task"} & wanted.options.keys():
        return []
    return [
        "# Since Slurm 22.05 srun does not take the number of processors from the job by itself.",
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
    ]


def _data(wanted: Wanted) -> list[str]:
    if wanted.data is None:
        return []
    stage = shlex.join([*wanted.container, "milepost", "slurm", "stage", "--", wanted.data])
    return [
        "# The data goes to the disk of each node, again after each requeue; what is there already is left.",
        "set -o pipefail",
        f'{DATA}=$(srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 {stage} | tail -n 1) || exit',
        f"export {DATA}",
    ]


def _training(wanted: Wanted, site: Site | None) -> list[str]:
    variables = [*([TASK] if wanted.array else []), *([DATA] if wanted.data is not None else [])]
    words = [*wanted.container, *wanted.command]
    return [
        "# srun, so that Slurm's signals reach the training: a plain child of this script gets none where processes are",
        "# tracked by cgroup" + (" (as on this cluster)." if site and site.proctrack == "cgroup" else "."),
        " ".join(["srun", *(_word(word, variables) for word in words)]),
        *(_REQUEUE_FROM_OUTSIDE if wanted.container and wanted.requeue else ()),
    ]


def _word(word: str, variables: Collection[str]) -> str:
    """A word of a command line, in which the values of `variables` are put; nothing else in it is anything to the shell."""
    parts = _parts(word, variables)
    told = [f'"{part}"' if place % 2 else shlex.quote(part) for place, part in enumerate(parts) if part]
    return "".join(told) or "''"


def _parts(word: str, variables: Collection[str]) -> list[str]:
    """`word`, split at variables: every second part is one."""
    names = "|".join(variables)
    return re.split(rf"(\$(?:(?:{names})\b|\{{(?:{names})\}}))", word) if variables else [word]


_REQUEUE_FROM_OUTSIDE = (
    "code=$?",
    "",
    "# Exit code 75: saved, to be continued. In the container there may be no scontrol; here there is. A job that is no longer",
    "# running is being ended by Slurm: one that was cancelled must not come back.",
    "job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; job=${job:-$SLURM_JOB_ID}",
    'if [ $code = 75 ] && [ "$(squeue --noheader --jobs="$job" --format=%T)" = RUNNING ]; then',
    '    scontrol requeue "$job"',
    "fi",
    "exit $code",
)
