"""``milepost slurm``: job scripts, submitting them, data on the node, and how a run in jobs is doing."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from milepost.cli.options import Json, RunArgument
from milepost.cli.terminal import document, note, say
from milepost.core import words
from milepost.core.text import safe
from milepost.errors import ScriptError


def script(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="The training command.")
    ] = None,
    time: Annotated[str, typer.Option(help='Limit of one job: "4h", "1d12h", or as Slurm writes it.')] = "4h",
    warning: Annotated[
        int | None,
        typer.Option(
            help="Seconds before the limit at which Slurm sends the signal; else 120, or a quarter of the limit."
        ),
    ] = None,
    signal: Annotated[str, typer.Option(help="Which signal.")] = "USR1",
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="NAME[=VALUE]", help="Another option of sbatch; may be repeated.")
    ] = None,
    no_requeue: Annotated[
        bool, typer.Option("--no-requeue", help="For sites that forbid it: see submit --chain.")
    ] = False,
    array: Annotated[str | None, typer.Option(help="Tasks, as in 0-9, each with a run of its own.")] = None,
    module: Annotated[
        list[str] | None, typer.Option(metavar="LINE", help="A line to run first; written as it is; may be repeated.")
    ] = None,
    container: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help='What runs the command in a container: "apptainer exec --nv x.sif".'),
    ] = None,
    stage_data: Annotated[
        str | None, typer.Option(metavar="SRC", help="Data to bring to the node first; its path is $DATA_DIR then.")
    ] = None,
    notebook: Annotated[
        str | None, typer.Option(metavar="FILE", help="A notebook to run without a person, in place of a command.")
    ] = None,
    jupyterlab: Annotated[
        bool,
        typer.Option("--jupyterlab", help="JupyterLab in place of a command; the output file says how to get there."),
    ] = False,
    proxy: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The site's proxy for it, with {host} and {port}; else a tunnel by ssh."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Write a job script that the run survives in.

    Where Slurm can be asked, the script is made to fit this cluster, and a limit that the partition does not allow is
    refused. The script goes to stdout.

    For example:

        milepost slurm script --time 4h -- python train.py --run runs/mnist
        milepost slurm script --sbatch partition=gpu --sbatch gpus=1 -- python train.py > job.sh
        milepost slurm script --stage-data /shared/mnist.tar -- python train.py --data '$DATA_DIR'
        milepost slurm script --array 0-9 -- python train.py --run 'runs/$SLURM_ARRAY_TASK_ID'
        milepost slurm script --notebook train.ipynb
        milepost slurm script --jupyterlab --time 8h

    JSON:

        script: its text
    """
    from milepost.slurm.script import Wanted, write
    from milepost.slurm.site import site_or_none

    options = {}
    for one in sbatch or []:
        name, equals, value = one.partition("=")
        options[name] = value if equals else None
    site = site_or_none()
    if notebook is not None and (command or jupyterlab):
        raise ScriptError("there is another thing to run, and a notebook", found=safe(notebook))
    wanted = Wanted(
        command=["milepost", "slurm", "notebook", notebook] if notebook is not None else command or [],
        time=time,
        warning=warning,
        signal=signal,
        options=options,
        requeue=not no_requeue,
        array=array,
        modules=module or (),
        container=_words(container or "", "--container"),
        data=stage_data,
        jupyterlab=jupyterlab,
        proxy=proxy,
    )
    text = write(wanted, site)
    if as_json:
        document({"script": text})
        return 0
    say(text.removesuffix("\n"))
    if site is None:
        note("Slurm cannot be asked here: the script is not made to fit a cluster")
    if wanted.array is not None and not wanted.names_task:
        note(
            "the command does not name its task ('$SLURM_ARRAY_TASK_ID'): mind that each needs a run directory of its own"
        )
    return 0


def _words(text: str, option: str) -> list[str]:
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise ScriptError(f"the words of {option} cannot be told apart: {error}", found=safe(text)) from error


def submit(
    script: Annotated[str, typer.Argument(metavar="SCRIPT", help="A job script.")],
    chain: Annotated[int, typer.Option(help="So many jobs, each after the one before has ended, however it did.")] = 1,
    as_json: Json = False,
) -> int:
    """Submit a job script, or a chain of jobs.

    A chain is for sites that forbid requeueing. Jobs that find the run complete end at once.

    For example:

        milepost slurm submit job.sh
        milepost slurm submit job.sh --chain 5

    JSON:

        jobs: their numbers
    """
    from milepost.slurm.submit import submit as send

    jobs = send(script, chain=chain)
    if as_json:
        document({"jobs": jobs})
    else:
        say(f"submitted {', '.join(jobs)}")
    return 0


def stage(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A .tar (also compressed) or .zip, a file, or a folder.")
    ],
    to: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where to; else $SLURM_TMPDIR or $TMPDIR.")] = None,
    as_json: Json = False,
) -> int:
    """Bring data to the disk of this node, unless it is there.

    Archives are unpacked. Several processes may do so at once: one works, the others wait. The path is printed.

    For example:

        milepost slurm stage /shared/imagenet.tar
        DATA_DIR=$(milepost slurm stage /shared/imagenet.tar)

    JSON:

        path: where it is now
    """
    from milepost.slurm.staging import stage as bring

    path = str(bring(source, to))
    if as_json:
        document({"path": path})
    else:
        say(path)
    return 0


def notebook(
    file: Annotated[str, typer.Argument(metavar="NOTEBOOK", help="What to run.")],
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where it goes with its outputs; else NOTEBOOK.out.ipynb.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Run a notebook from its first cell to its last, without a person.

    Signals that Slurm sends are handed on to the kernel, so that a run in it saves, stops, and puts its job back into
    the queue as a script does.

    Exit code 75 if it was stopped so, 1 if a cell failed.

    For example:

        milepost slurm notebook train.ipynb
        milepost slurm script --notebook train.ipynb > job.sh

    JSON:

        output: where it is with its outputs
        code: the exit code
        problem: the exception in which a cell ended, else empty
    """
    from pathlib import Path

    from milepost.slurm.notebook import execute

    path = Path(file)
    out = Path(output) if output is not None else path.with_suffix(".out.ipynb")
    ran = execute(path, out)
    if ran.problem:
        note(f"a cell of {path} failed: {safe(ran.problem)}; {out} has all that was put out")
    if as_json:
        document({"output": str(out), "code": ran.code, "problem": ran.problem})
    return ran.code


def status(run: RunArgument, as_json: Json = False) -> int:
    """Show how a run in Slurm jobs is doing.

    Lost are the steps that were done after the checkpoint from which the next attempt went on, or will; the time is what
    these steps took.

    For example:

        milepost slurm status runs/mnist

    JSON:

        place, state, job, restarts, host, job_state, reason, seconds_left,
        checkpoint, step, saved, attempts, lost_steps, lost_seconds
        on_node: {host, path, step} of what is newer and on the disk of a node alone, else null
        job_state, reason and seconds_left are null where Slurm does not say
    """
    from milepost.cli.slurm_status import status_of

    found = status_of(run)
    if as_json:
        document(found)
        return 0
    for name, value in _rows(found):
        say(f"{name + ':':12} {safe(value)}")
    return 0


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    job = "none"
    if found["job"] is not None:
        job = f"{found['job']} (restart {found['restarts']}) on {found['host']}"
        if found["job_state"] is not None:
            job += f": {found['job_state'].lower()}" + (f", {found['reason']}" if found["reason"] != "None" else "")
    left = found["seconds_left"]
    checkpoint = "none yet"
    if found["checkpoint"] is not None:
        saved, ago = words.moment(found["saved"])
        checkpoint = f"{found['checkpoint']}, {saved} ({ago})"
    lost = words.count(found["lost_steps"], "step")
    if found["lost_steps"]:
        lost += f", about {words.duration(found['lost_seconds'])}"
    return [
        ("run", f"{found['place']}: {found['state']}, {words.count(found['attempts'], 'attempt')}"),
        ("job", job),
        ("last good", checkpoint),
        *([("on a node", words.on_node(**found["on_node"]))] if found["on_node"] is not None else []),
        ("lost so far", lost),
        ("time left", "not known" if left is None else words.duration(left)),
    ]
