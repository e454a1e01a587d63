"""Questions to Slurm, and requests: its own commands, with a bound on how long they may take."""

from __future__ import annotations

import os
import shutil
import subprocess

from milepost.errors import SlurmError

SECONDS = 20.0
"""How long Slurm may take to answer; a controller under load takes seconds."""


class SlurmSilentError(SlurmError):
    """Slurm's controller does not answer; it may later."""


def available(command: str) -> bool:
    """Whether a command of Slurm is here: in a container it often is not."""
    return shutil.which(command) is not None


def ask(command: str, *arguments: str, seconds: float = SECONDS) -> str:
    """What a command of Slurm prints.

    Raises:
        SlurmError: it is not here, refused, or did not answer.

    Example:
        >>> ask("squeue", "--noheader", "--jobs=12", "--Format=State")
    """
    # What people set for their own listings must not change what is read here; times come in seconds since the epoch.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SINFO_"))}
    environment |= {"SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
    line = " ".join((command, *arguments))
    path = shutil.which(command)
    if path is None:
        raise SlurmError(
            f"{command} is not here",
            where=line,
            hint="run this where Slurm's commands are; in a container, bind them into it",
        )
    try:
        done = subprocess.run(  # noqa: S603 - the words are ours, and no shell reads them
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmSilentError(f"{command} did not answer in {seconds:.0f} s", where=line) from error
    except OSError as error:
        raise SlurmError(f"{command} cannot be run: {error.strerror}", where=line) from error
    if done.returncode != 0:
        prefix = f"{command}: error: "  # which Slurm puts before each line
        lines = [line.removeprefix(prefix) for line in done.stderr.decode(errors="replace").splitlines()]
        told = " ".join(lines).strip() or f"exit code {done.returncode}"
        silent = "Unable to contact" in told or "Socket timed out" in told
        raise (SlurmSilentError if silent else SlurmError)(f"{command} failed: {told}", where=line)
    return done.stdout.decode(errors="replace").strip()
