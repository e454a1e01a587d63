"""Jobs that are ended by a signal, or by Slurm taking them back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster import Cluster
from playing import PATIENCE, SHORT, Outcome, Run, Scenario, job


def requeued(cluster: Cluster, place: Path) -> Outcome:
    number, run = job(cluster, place)
    for attempt, step in enumerate((23, 61), 1):
        run.reach(step, attempt)
        cluster.run("scontrol", "requeue", number)
    run.finish()
    assert cluster.show(number)["Restarts"] == "2", "a job that is requeued already is not requeued once more"
    return run.check(attempts=3)


def signalled(how: str, *kill: str) -> Callable[[Cluster, Path], Outcome]:
    """Ended by a signal that somebody sends; requeues itself."""

    def scenario(cluster: Cluster, place: Path) -> Outcome:
        number, run = job(cluster, place, how=how)
        for attempt, step in enumerate((17, 58), 1):
            run.reach(step, attempt)
            cluster.run("scancel", *kill, number)
        run.finish()
        assert cluster.show(number)["Restarts"] == "2"
        return run.check(attempts=3)

    return scenario


def preempted(cluster: Cluster, place: Path) -> Outcome:
    _, run = job(cluster, place, "--partition=low", "--signal=USR1@30")
    urgent = place / "urgent.sh"
    urgent.write_text("#!/bin/bash\nsleep 2\n")
    for attempt, step in enumerate((21, 64), 1):
        run.reach(step, attempt)
        cluster.submit(urgent, "--partition=urgent", "--exclusive", "--output", place / "urgent.out")
    run.finish()
    return run.check(attempts=3)


def array(cluster: Cluster, place: Path) -> Outcome:
    """Three tasks, of which one is stopped twice: the others are not touched."""
    number, _ = job(cluster, place, "--array=0-2", name="run-$SLURM_ARRAY_TASK_ID")
    runs = [Run(place / f"run-{task}", SHORT) for task in range(3)]
    for attempt, step in enumerate((14, 44), 1):
        # The last task's own job number is that of the whole array.
        runs[2].reach(step, attempt)
        cluster.run("scancel", "--signal=USR1", f"{number}_2")
    for run in runs:
        run.finish()
    outcomes = [run.check(attempts) for run, attempts in zip(runs, (1, 1, 3), strict=True)]
    return Outcome(sum(one.attempts for one in outcomes), sum(one.lost for one in outcomes))


def cancelled(cluster: Cluster, place: Path) -> Outcome:
    """Somebody cancels the job: it must not come back. Submitted again it goes on."""
    number, run = job(cluster, place)
    run.reach(19)
    cluster.run("scancel", number)
    cluster.wait_for_state(number, "CANCELLED")
    cluster.submit(place / "job.sh", "--output", place / "again.out")
    run.finish()
    assert cluster.state(number) == "CANCELLED"
    return run.check(attempts=2)


def stuck(cluster: Cluster, place: Path) -> Outcome:
    """A job that gets nowhere stops requeueing itself, and says so by its exit code."""
    number, run = job(cluster, place, checkpointer="time_limit=0.001", how="exec")
    cluster.wait_for_state(number, "FAILED", PATIENCE)
    assert cluster.show(number)["ExitCode"] == "76:0"
    return Outcome(len(run.starts), 0)


SCENARIOS = {
    "requeue": Scenario(requeued, "scontrol requeue, twice"),
    "signal-srun": Scenario(signalled("srun", "--signal=USR2"), "USR2 to the step: requeues itself, twice"),
    "signal-shell": Scenario(
        signalled("exec", "--batch", "--signal=TERM"), "TERM to the shell, exec python: requeues itself, twice"
    ),
    "preemption": Scenario(preempted, "preempted by a higher partition, twice"),
    "array": Scenario(array, "an array, one task of which is stopped twice"),
    "stuck": Scenario(stuck, "gets nowhere: two attempts, then exit code 76"),
    "cancelled": Scenario(cancelled, "cancelled: does not come back by itself"),
}
