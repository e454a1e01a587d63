"""Jobs that are longer than their time limit. A minute is the shortest that Slurm has, so these take minutes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cluster import Cluster
from playing import DURABLE, EVERY, LONG, STOPPED, TORCH, Outcome, Run, Scenario, command, job, milepost, module, told

NO_SQUEUE = """\
mkdir -p {place}/bin
printf '#!/bin/bash\\ncase "$*" in *EndTime*) exit 1;; esac; exec /usr/bin/squeue "$@"\\n' > {place}/bin/squeue
chmod +x {place}/bin/squeue; export PATH={place}/bin:$PATH; unset SLURM_JOB_END_TIME"""
"""A ``squeue`` that does not tell the end of a job."""

NO_SLURM = "export PATH=/nowhere; unset SLURM_JOB_END_TIME"
"""As in a container: a path without Slurm's commands."""


def limited(how: str, *options: str, time: int = 1) -> Callable[[Cluster, Path], Outcome]:
    """Goes on beyond a limit of so many minutes."""

    def scenario(cluster: Cluster, place: Path) -> Outcome:
        # Slurm's warning may come half a minute early, and must not come while Python is still importing. And where it is to
        # be the warning that counts, the process must not know the limit better.
        before = NO_SQUEUE if options else ""
        number, run = job(
            cluster, place, f"--time={time}", *options, training=TORCH, how=how, before=before.format(place=place)
        )
        run.finish()
        cluster.wait_for_state(number, "COMPLETED")  # what is finished does not go back into the queue
        assert ("its time limit is not known" if options else "time limit: step") in told(place)
        return run.check()

    return scenario


def chain(cluster: Cluster, place: Path) -> Outcome:
    """Where requeueing is forbidden: each job of a chain begins when the one before has ended, however it did."""
    run = Run(place / "run", LONG)
    options = ["--no-requeue", "--time", "1m", "--warning", "1", "--sbatch", f"output={place}/chain-%j.out"]
    (place / "job.sh").write_text(milepost(cluster, "slurm", "script", *options, *module(), "--", *command(run)))
    jobs = json.loads(milepost(cluster, "slurm", "submit", place / "job.sh", "--chain", 4, "--json"))["jobs"]
    number = jobs[0]
    run.finish()
    outcome = run.check()
    assert f"the exit code is {STOPPED}" in told(place)
    assert cluster.show(number)["ExitCode"] == f"{STOPPED}:0"
    assert cluster.show(number)["Restarts"] == "0"
    for one in jobs[outcome.attempts :]:  # that has nothing left to do
        cluster.wait_for_state(one, "COMPLETED")
    return outcome


def blind(cluster: Cluster, place: Path) -> Outcome:
    """No signal, and nobody to ask for the limit: killed at it. The next job of the chain continues from the last save."""
    training = (*LONG, DURABLE)
    number, run = job(cluster, place, "--time=1", "--no-requeue", training=training, how="", before=NO_SLURM)
    last = number
    for _ in range(2):
        last = cluster.submit(
            place / "job.sh", "--time=1", f"--dependency=afterany:{last}", "--output", place / "chain-%A.out"
        )
    run.finish()
    assert "its time limit is not known" in told(place)
    assert cluster.state(number) == "TIMEOUT"
    return run.check(most_lost=EVERY)


SCENARIOS = {
    "limit-warned": Scenario(
        limited("srun", "--signal=USR1@45", time=2), "time limit, USR1 to the step before it", False
    ),
    "limit-shell": Scenario(
        limited("exec", "--signal=B:USR1@45", time=2), "time limit, USR1 to the shell, exec python", False
    ),
    "limit-srun": Scenario(limited("srun"), "time limit, no warning, srun", False),
    "limit-child": Scenario(limited(""), "time limit, no warning, plain child of the script", False),
    "chain": Scenario(chain, "requeue forbidden, jobs chained by milepost slurm submit", False),
    "blind": Scenario(blind, "neither a signal nor a known limit: killed, chained", False),
}
