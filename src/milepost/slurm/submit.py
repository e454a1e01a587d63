"""Submitting job scripts, one or a chain of them."""

from __future__ import annotations

from milepost.errors import ScriptError, SlurmError
from milepost.slurm.control import ask
from milepost.slurm.script import LONGEST_CHAIN


def submit(script: str, *, chain: int = 1) -> list[str]:
    """Submit `script`; the numbers of the jobs.

    Args:
        script: a path.
        chain: so many jobs, each of which begins when the one before has ended, however it did. Those that find the run complete
            end at once.

    Raises:
        ScriptError: a chain of no length, or of more than `LONGEST_CHAIN`.
        SlurmError: refused; earlier jobs of the chain are in the queue then, and named in the error.
    """
    if not 1 <= chain <= LONGEST_CHAIN:
        raise ScriptError("a chain has at least one job", expected=f"1 to {LONGEST_CHAIN}", found=chain)
    jobs: list[str] = []
    for _ in range(chain):
        after = [f"--dependency=afterany:{jobs[-1]}"] if jobs else []
        try:
            told = ask("sbatch", "--parsable", *after, script)
        except SlurmError as error:
            if jobs:
                error.hint = (
                    f"jobs {', '.join(jobs)} of the chain are in the queue: scancel {' '.join(jobs)} takes them back"
                )
            raise
        jobs.append(told.partition(";")[0])
    return jobs
