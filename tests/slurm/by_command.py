"""What milepost's own commands do for a job."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from by_limit import NO_SLURM
from cluster import Cluster, waiting
from playing import EVERY, PATIENCE, SHORT, SOURCES, Outcome, Run, Scenario, command, job, milepost, module, told


def generated(cluster: Cluster, place: Path) -> Outcome:
    """A script that ``milepost slurm`` wrote for this cluster, as it submits it and looks after it; the words have a space."""
    run = Run(place / "the run", (*SHORT, "--until", f"{place}/asked"))
    (place / "data").mkdir()
    (place / "data/numbers").write_text("1 2 3")
    shutil.make_archive(str(place / "job"), "tar", place / "data")
    options = ["--time", "10m", "--sbatch", "comment=two words # and more", "--sbatch", f"output={place}/job.out"]
    options += ["--module", put_on_path(place), "--module", f"export TMPDIR={place}/node; mkdir -p $TMPDIR"]
    options += ["--stage-data", f"{place}/job.tar"]
    script = milepost(cluster, "slurm", "script", *options, *module(), "--", *command(run))
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
    (data,) = (place / "node").glob("*/job/numbers")
    assert data.read_text() == "1 2 3"
    unpacked = data.stat().st_ctime_ns
    (place / "asked").touch()
    cluster.run("scancel", "--signal=USR1", number)
    run.finish()
    cluster.wait_for_state(number, "COMPLETED")
    told = json.loads(milepost(cluster, "slurm", "status", run.path, "--json"))
    assert (told["state"], told["job_state"], told["attempts"]) == ("complete", "COMPLETED", 2)
    assert told["lost_steps"] == 0
    assert data.stat().st_ctime_ns == unpacked, "what is on the node is left there"
    return run.check(attempts=2)


def contained(cluster: Cluster, place: Path) -> Outcome:
    """A script for a container in which Slurm's commands are missing (here: a path without them): it requeues from outside."""
    run = Run(place / "run", SHORT)
    options = ["--time", "10m", "--sbatch", f"output={place}/job.out", "--container", "env PATH=/nowhere"]
    (place / "job.sh").write_text(milepost(cluster, "slurm", "script", *options, *module(), "--", *command(run)))
    number = cluster.submit(place / "job.sh")
    for attempt, step in enumerate((17, 58), 1):
        run.reach(step, attempt)
        cluster.run("scancel", "--signal=USR1", number)
    run.finish()
    cluster.wait_for_state(number, "COMPLETED")
    assert cluster.show(number)["Restarts"] == "2"
    assert "scontrol is not here" in told(place) or "squeue is not here" in told(place)
    return run.check(attempts=3)


def examined(cluster: Cluster, place: Path) -> Outcome:
    """``milepost doctor`` in a job (as a plain child of the script, under srun, without Slurm's commands) and on the login node."""
    words = f"{sys.executable} -m milepost doctor {place}/run --json"
    script = place / "doctor.sh"
    script.write_text(
        f"#!/bin/bash\nexport PYTHONPATH={SOURCES}\n{words} > {place}/child.json\nsrun {words} > {place}/task.json\n"
        f"{NO_SLURM}\n{words} > {place}/blind.json\n: > {place}/end\n"
    )
    number, run = job(cluster, place, training=(*SHORT, "--until", f"{place}/end"))
    run.reach(7)
    login = findings(milepost(cluster, "doctor", run.path, "--json", code=1))
    examiner = cluster.submit(script, "--no-requeue", "--time=5", "--output", place / "doctor.out")
    for _ in waiting(PATIENCE):
        if (place / "end").exists():
            break
    child, task, blind = (findings((place / f"{name}.json").read_text()) for name in ("child", "task", "blind"))
    assert child["signals"][0] == ("wrong" if cluster.proctrack == "cgroup" else "risk")
    assert task["signals"][0] == "fine"
    assert login["Slurm"] == ("fine", f"this is no job; jobs here are requeued; proctrack/{cluster.proctrack}")
    for found in (child, task, blind, login):
        assert found["attempts"][0] == "wrong", "another attempt is alive"
        assert found["room"][0] == found["versions"][0] == "fine"
        assert found["run directory"][0] in ("risk", "wrong"), "a disk of one machine, or memory"
    assert task["requeue"] == ("risk", f"not allowed for job {examiner}")
    assert blind["requeue"] == ("risk", "scontrol is not here: the job cannot requeue itself")
    run.finish()
    assert cluster.show(number)["Restarts"] == "0"
    return run.check(attempts=1)


def examined_late(cluster: Cluster, place: Path) -> Outcome:
    """``milepost doctor`` when the time of the job is over: Slurm takes some seconds until it kills."""
    _, run = job(cluster, place)
    run.finish()
    script = place / "doctor.sh"
    words = f"{sys.executable} -m milepost doctor {run.path} --json"
    script.write_text(
        f"#!/bin/bash\nexport PYTHONPATH={SOURCES}\nsleep 57\nfor i in $(seq 30); do {words} > {place}/$i.json; done\n"
    )
    late = cluster.submit(script, "--no-requeue", "--time=1", "--output", place / "doctor.out")
    cluster.wait_for_state(late, "TIMEOUT", PATIENCE)
    told = [findings(path.read_text()) for path in place.glob("*.json") if path.read_text().endswith("}\n")]
    assert any(found.get("time limit", ("fine",))[0] == "wrong" for found in told), told
    return run.check(attempts=1)


DISKS = """
mkdir memory small upper work lower overlay fixed
mount -t tmpfs -o size=200m none memory
mount -t tmpfs -o size=40m none small
mount -t tmpfs none upper; mkdir upper/upper upper/work
mount -t overlay -o lowerdir=lower,upperdir=upper/upper,workdir=upper/work none overlay
mount --bind fixed fixed; mount -o remount,bind,ro fixed
for disk in memory small overlay fixed; do
    {doctor} $disk/run --json > $disk.json
done
{train}
"""


def examined_disks(cluster: Cluster, place: Path) -> Outcome:
    """``milepost doctor`` on real file systems of several kinds; and a run on one that gets full keeps what it has."""
    python = f"env PYTHONPATH={SOURCES} {sys.executable}"
    train = (
        "import numpy as np, milepost\n"
        "with milepost.Checkpointer('small/run', w=np.zeros(1 << 20), keep=milepost.Keep(last=None)) as run:\n"
        "    for _ in run.steps(9): run.step(w=run['w'] + 1); run.save()"
    )
    script = DISKS.format(
        doctor=f"{python} -m milepost doctor", train=f'{python} -c "{train}"; {python} -m milepost verify small/run'
    )
    # In mounts of its own, which end with it.
    words = ["unshare", "--mount", "bash", "-c", script]
    done = subprocess.run(words, cwd=place, env=cluster.environment, capture_output=True, text=True)
    found = {path.stem: findings(path.read_text()) for path in place.glob("*.json")}
    assert found["memory"]["run directory"][0] == "wrong"
    assert found["small"]["room"] == ("wrong", f"not even for 67 MB: No space left on device ({place}/small)")
    assert f"cannot be written: Read-only file system ({place}/fixed)" in (place / "fixed.json").read_text()
    assert found["overlay"]["run directory"] == (
        "risk", f"{place}/overlay/run is on {place}/overlay (overlay): this node's own disk, as it seems",
    )  # fmt: skip
    for disk in ("memory", "overlay"):
        assert not {"hard links", "locks", "renaming", "clock"} & found[disk].keys()
    assert "there may be no room for the next save" in done.stderr
    assert "cannot save step 9: No space left on device" in done.stderr
    assert done.returncode == 0, done.stderr
    assert ", 0 damaged" in done.stdout
    return Outcome(1, 0)


def findings(text: str) -> dict[str, tuple[str, str]]:
    """What ``milepost doctor`` told: about what -> how bad, and what was found."""
    return {one["about"]: (one["level"], one["found"]) for one in json.loads(text)["findings"]}


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
    words = command(run)[1:]
    cell = (
        f"import runpy, sys\nsys.argv = {words!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')\nprint('through')"
    )
    cells = [{"cell_type": "code", "metadata": {}, "source": cell, "outputs": [], "execution_count": None}]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    document = {"nbformat": 4, "nbformat_minor": 4, "metadata": kernel, "cells": cells}
    (place / "train.ipynb").write_text(json.dumps(document))
    options = ["--time", "10m", "--module", put_on_path(place), *module()]
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
    words = [sys.executable, place / "submitter.py", place / "logs", *command(run)[1:]]
    environment = {**cluster.environment, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
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
    "container": Scenario(contained, "in a container without scontrol: requeued from outside, twice"),
    "doctor": Scenario(examined, "milepost doctor in jobs of three kinds, and on the login node"),
    "doctor-disks": Scenario(
        examined_disks, "milepost doctor on disks in memory, too small, layered, and write-protected"
    ),
    "doctor-late": Scenario(examined_late, "milepost doctor when the time of the job is over", False),
}
