"""``milepost doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from milepost.cli import complete
from milepost.cli.options import Json
from milepost.cli.terminal import document, paint, say
from milepost.core.text import safe

_COLOURS = {"wrong": "red", "risk": "yellow", "fine": "green"}


def doctor(
    run: Annotated[
        str,
        typer.Argument(metavar="[RUN]", help="The run directory; need not be there.", autocompletion=complete.places),
    ] = ".",
    as_json: Json = False,
) -> int:
    """Say what is wrong or risky about a run, and how to mend it.

    Looks at the file system of the run directory (64 MiB are written and removed again), at other attempts, and at
    the Slurm job or cluster. Run it where the training is to run: under srun in a job, or on a login node.

    Exit code 1 if anything is wrong or risky.

    For example:

        milepost doctor runs/mnist
        srun milepost doctor runs/mnist

    JSON:

        findings: [{level, about, found, mend}], the worst first; level: wrong, risk or fine
    """
    from milepost.slurm.doctor import Level, examine

    findings = examine(run)
    if as_json:
        document({"findings": [one._asdict() for one in findings]})
    else:
        for one in findings:
            say(f"{paint(f'{one.level.value:5}', _COLOURS[one.level])}  {one.about}: {safe(one.found)}")
            if one.mend:
                say(f"       {safe(one.mend)}")
    return 0 if all(one.level is Level.FINE for one in findings) else 1
