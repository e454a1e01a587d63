"""Jobs whose node fails."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cluster import Cluster, alive, processes, waiting
from playing import EVERY, LONG, SHORT, Outcome, Scenario, job


def kill_node(cluster: Cluster, number: str, *, keepers: bool = False) -> int:
    """Kill what runs of job `number` on its node, and the node's ``slurmd``, all at once; the number of the node.

    Args:
        cluster: where.
        number: the job.
        keepers: only what keeps the job (``slurmstepd``, ``srun``): its own processes live on.
    """
    node = int(cluster.show(number)["NodeList"].removeprefix("node"))
    daemon = cluster.daemon(f"slurmd.node{node}")
    assert daemon is not None
    doomed = [
        one.number
        for one in processes()
        if f"SLURM_JOB_ID={number}" in one.environment or f"slurmstepd: [{number}." in one.command
        if not keepers or "slurmstepd" in one.command or "srun" in one.command
    ]
    for process in (daemon, *doomed):
        os.kill(process, signal.SIGKILL)
    return node


def failed(cluster: Cluster, place: Path) -> Outcome:
    """The node fails, and all that was on it."""
    number, run = job(cluster, place, "--partition=fragile", training=SHORT)
    run.reach(33)
    node = kill_node(cluster, number)
    run.reach(34, 2)
    cluster.start_node(node)
    run.finish()
    return run.check(attempts=2, most_lost=EVERY)


def survived(cluster: Cluster, place: Path) -> Outcome:
    """Slurm loses the node; the training lives on beside the job that was restarted, until it is fenced."""
    # Long enough that the one that lives on is still at work when the other comes.
    number, run = job(cluster, place, "--partition=frail", training=LONG)
    run.reach(33)
    trainer = run.starts[0][1]
    node = kill_node(cluster, number, keepers=True)
    run.reach(34, 2)
    for _ in waiting(60):  # until it wants to save
        if not alive(trainer):
            break
    assert not alive(trainer), "the old process was not stopped by being fenced"
    assert ["fenced"] in list(run.lines()), "the old process did not notice"
    cluster.start_node(node)
    run.finish()
    return run.check(attempts=2, most_lost=EVERY, old=trainer)


SCENARIOS: dict[str, Scenario] = {
    "failure": Scenario(failed, "slurmd and the job killed by SIGKILL"),
    "survivor": Scenario(survived, "the old process lives on beside the restarted one", False),
}
