"""What milepost's own commands do for a job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from by_limit import NO_SLURM
from cluster import Cluster, waiting
from playing import EVERY, PATIENCE, PAUSE, SHORT, SOURCES, TRAINER, Outcome, Run, Scenario, job, milepost


def generated(cluster: Cluster, place: Path) -> Outcome:
    """A script that ``milepost slurm`` wrote for this cluster, as it submits it and looks after it; the words have a space."""
    run = Run(place / "the run", SHORT)
    train = [sys.executable, TRAINER, run.path, *SHORT, "--every", EVERY, "--pause", PAUSE]
    options = ["--time", "10m", "--sbatch", "comment=two words # and more", "--sbatch", f"output={place}/job.out"]
    script = milepost(cluster, "slurm", "script", *options, "--module", f"export PYTHONPATH={SOURCES}", "--", *train)
    (place / "job.sh").write_text(script)
    assert "as on this cluster" in script or cluster.proctrack != "cgroup"
    number = json.loads(milepost(cluster, "slurm", "submit", place / "job.sh", "--json"))["jobs"][0]
    run.reach(13)
    told = json.loads(milepost(cluster, "slurm", "status", run.path, "--json"))
    assert (told["job"], told["job_state"], told["restarts"]) == (number, "RUNNING", 0)
    assert 400 < told["seconds_left"] <= 600
    assert told["step"] >= 2 * EVERY
    shown = cluster.show(number)
    assert (shown["TimeLimit"], shown["Requeue"], shown["Comment"]) == ("00:10:00", "1", "two")
    cluster.run("scancel", "--signal=USR1", number)
    run.finish()
    cluster.wait_for_state(number, "COMPLETED")
    told = json.loads(milepost(cluster, "slurm", "status", run.path, "--json"))
    assert (told["state"], told["job_state"], told["attempts"]) == ("complete", "COMPLETED", 2)
    assert told["lost_steps"] == 0
    return run.check(attempts=2)


def examined(cluster: Cluster, place: Path) -> Outcome:
    """``milepost doctor`` in a job: as a plain child of the script, under srun, and without Slurm's commands."""
    words = f"{sys.executable} -m milepost doctor {place}/run --json"
    script = place / "doctor.sh"
    script.write_text(
        f"#!/bin/bash\nexport PYTHONPATH={SOURCES}\n{words} > {place}/child.json\nsrun {words} > {place}/task.json\n"
        f"{NO_SLURM}\n{words} > {place}/blind.json\n: > {place}/end\n"
    )
    number, run = job(cluster, place)
    run.reach(7)
    cluster.submit(script, "--no-requeue", "--time=5", "--output", place / "doctor.out")
    for _ in waiting(PATIENCE):
        if (place / "end").exists():
            break
    levels = {}
    for name in ("child", "task", "blind"):
        found = json.loads((place / f"{name}.json").read_text())["findings"]
        levels[name] = {one["about"]: one["level"] for one in found}
    tracked = "wrong" if cluster.proctrack == "cgroup" else "risk"
    assert levels["child"]["signals"] == tracked
    assert levels["task"]["signals"] == "fine"
    assert levels["task"]["attempts"] == "wrong", "another attempt is alive"
    assert levels["task"]["requeue"] == levels["blind"]["requeue"] == "risk"
    run.finish()
    assert cluster.show(number)["Restarts"] == "0"
    return run.check(attempts=1)


def put_on_path(place: Path) -> str:
    """A line for a job script after which ``milepost`` is a command."""
    command = place / "bin/milepost"
    command.parent.mkdir()
    command.write_text(f'#!/bin/bash\nPYTHONPATH={SOURCES}:$PYTHONPATH exec {sys.executable} -m milepost "$@"\n')
    command.chmod(0o755)
    return f"export PATH={command.parent}:$PATH"


def notebook(cluster: Cluster, place: Path) -> Outcome:
    """A notebook without a person: stopped by a signal, it goes on in the next job, and its outputs are kept."""
    run = Run(place / "run", SHORT)
    words = [str(TRAINER), str(run.path), *SHORT, "--every", str(EVERY), "--pause", str(PAUSE)]
    cell = (
        f"import runpy, sys\nsys.argv = {words!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\nprint('through')"
    )
    cells = [{"cell_type": "code", "metadata": {}, "source": cell, "outputs": [], "execution_count": None}]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    document = {"nbformat": 4, "nbformat_minor": 4, "metadata": kernel, "cells": cells}
    (place / "train.ipynb").write_text(json.dumps(document))
    options = ["--time", "10m", "--module", put_on_path(place), "--module", f"export PYTHONPATH={SOURCES}:$PYTHONPATH"]
    options += ["--sbatch", f"output={place}/job.out", "--notebook", place / "train.ipynb"]
    (place / "job.sh").write_text(milepost(cluster, "slurm", "script", *options))
    number = cluster.submit(place / "job.sh")
    for attempt, step in enumerate((17, 58), 1):
        run.reach(step, attempt)
        cluster.run("scancel", "--signal=USR1", number)
    run.finish()
    cluster.wait_for_state(number, "COMPLETED")
    assert cluster.show(number)["Restarts"] == "2"
    outputs = json.loads((place / "train.out.ipynb").read_text())["cells"][0]["outputs"]
    assert "through" in "".join("".join(one.get("text", "")) for one in outputs)
    return run.check(attempts=3)


SUBMITTER = """
import runpy, sys
import submitit
from milepost.slurm.submitit import Resumable

def train(words):
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    return "through"

executor = submitit.SlurmExecutor(sys.argv[1])
executor.update_parameters(time=10, partition="batch")
print(executor.submit(Resumable(train), sys.argv[2:]).job_id)
"""


def by_submitit(cluster: Cluster, place: Path) -> Outcome:
    """Submitted by submitit, and stopped by the signal that it asks Slurm for."""
    run = Run(place / "run", SHORT)
    (place / "submitter.py").write_text(SUBMITTER)
    words = [place / "logs", TRAINER, run.path, *SHORT, "--every", EVERY, "--pause", PAUSE]
    environment = {**cluster.environment, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        [sys.executable, place / "submitter.py", *map(str, words)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    number = done.stdout.strip()
    for attempt, step in enumerate((17, 58), 1):
        run.reach(step, attempt)
        cluster.run("scancel", "--signal=USR2", number)
    run.finish()
    cluster.wait_for_state(number, "COMPLETED")
    assert cluster.show(number)["Restarts"] == "2"
    (result,) = (place / "logs").glob("*_result.pkl")
    assert b"through" in result.read_bytes()
    return run.check(attempts=3)


SCENARIOS = {
    "submitit": Scenario(by_submitit, "submitted by submitit, and stopped twice"),
    "notebook": Scenario(notebook, "a notebook without a person, stopped twice"),
    "generated": Scenario(generated, "a script that milepost slurm wrote, submitted and looked after"),
    "doctor": Scenario(examined, "milepost doctor, as a plain child, under srun, and without Slurm's commands"),
}
