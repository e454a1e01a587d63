"""Running a notebook from its first cell to its last without a person, so that a run in it survives in a job: `execute`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from milepost.errors import FormatError, MilepostError, NotFoundError
from milepost.slurm.job import UNATTENDED

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""A kernel is in a session of its own, which signals of Slurm do not reach."""


class Ran(NamedTuple):
    """How a notebook ended: with 0, with the code of a cell that ended by `SystemExit` (75: stopped with all saved), or with 1
    after any other exception, which `problem` tells."""

    code: int
    problem: str = ""


def execute(notebook: Path, output: Path) -> Ran:
    """Run all cells of `notebook` and write them with what they put out to `output`, also if one failed.

    Signals that Slurm sends are handed on to the kernel. A run that was stopped puts its job back into the queue by itself, as in a
    script.

    Raises:
        NotFoundError: there is no such notebook, Jupyter is not here, or not the kernel that the notebook asks for.
        FormatError: that is no notebook.
        MilepostError: the kernel died.
    """
    try:
        import nbclient
        import nbformat
        from jupyter_client.kernelspec import NoSuchKernel
        from nbclient.exceptions import CellExecutionError, DeadKernelError
        from nbformat.reader import NotJSONError
    except ImportError as error:
        raise NotFoundError(f"{error.name} is not installed", hint="pip install nbclient ipykernel") from error
    try:
        document = nbformat.read(notebook, as_version=4)
    except FileNotFoundError as error:
        raise NotFoundError("there is no such notebook", where=notebook) from error
    except (NotJSONError, nbformat.ValidationError) as error:
        raise FormatError("that is no notebook", where=notebook, found=str(error).splitlines()[0]) from error
    client = nbclient.NotebookClient(
        document, timeout=None, resources={"metadata": {"path": str(notebook.absolute().parent)}}
    )
    os.environ[UNATTENDED] = "1"

    def forward(number: int, frame: FrameType | None) -> None:
        process = getattr(getattr(client.km, "provisioner", None), "process", None)
        if process is None:  # no kernel yet: nothing is lost
            raise SystemExit(128 + number)
        os.kill(process.pid, number)

    earlier = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        client.execute()
    except CellExecutionError as error:
        if error.ename == "SystemExit" and error.evalue.isdecimal():
            return Ran(int(error.evalue))
        return Ran(1, f"{error.ename}: {error.evalue}")
    except NoSuchKernel as error:
        hint = f"python -m ipykernel install --user --name {error.name}"
        raise NotFoundError(
            "the kernel of the notebook is not here", where=notebook, found=error.name, hint=hint
        ) from error
    except DeadKernelError as error:
        raise MilepostError("the kernel died", where=notebook, found=error) from error
    finally:
        nbformat.write(document, output)
        for number, handler in earlier.items():
            signal.signal(number, handler)
    return Ran(0)
