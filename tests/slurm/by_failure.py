"""Jobs whose node fails."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from cluster import Cluster, alive, processes, waiting
from playing import DURABLE, EVERY, LONG, PATIENCE, SHORT, Outcome, Run, Scenario, job, told


def on_node(cluster: Cluster, number: str, *, keepers: bool = False) -> tuple[int, list[int]]:
    """The node that job `number` is on, and its processes there, ``slurmd`` first.

    Args:
        cluster: where.
        number: the job.
        keepers: only what keeps the job (``slurmstepd``, ``srun``), not its own processes.
    """
    node = int(cluster.show(number)["NodeList"].removeprefix("node"))
    daemon = cluster.daemon(f"slurmd.node{node}")
    assert daemon is not None
    return node, [
        daemon,
        *(
            one.number
            for one in processes()
            if f"SLURM_JOB_ID={number}" in one.environment or f"slurmstepd: [{number}." in one.command
            if not keepers or "slurmstepd" in one.command or "srun" in one.command
        ),
    ]


def kill(doomed: list[int]) -> None:
    """Kill processes, all at once; some of them do not live long in any case."""
    for process in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def failed(cluster: Cluster, place: Path) -> Outcome:
    """The node fails, and all that was on it."""
    number, run = job(cluster, place, "--partition=fragile", training=(*SHORT, DURABLE))
    run.reach(33)
    node, doomed = on_node(cluster, number)
    kill(doomed)
    run.reach(34, 2)
    cluster.start_node(node)
    run.finish()
    return run.check(attempts=2, most_lost=EVERY)


def survived(cluster: Cluster, place: Path) -> Outcome:
    """Slurm loses the node; the training lives on beside the job that was restarted, until it is fenced."""
    # Long enough that the one that lives on is still at work when the other comes.
    number, run = job(cluster, place, "--partition=frail", training=(*LONG, DURABLE))
    run.reach(33)
    trainer = run.starts[0][1]
    node, doomed = on_node(cluster, number, keepers=True)
    kill(doomed)
    run.reach(34, 2)
    for _ in waiting(60):  # until it wants to save
        if not alive(trainer):
            break
    assert not alive(trainer), "the old process was not stopped by being fenced"
    assert ["fenced"] in list(run.lines()), "the old process did not notice"
    cluster.start_node(node)
    run.finish()
    return run.check(attempts=2, most_lost=EVERY, old=trainer)


def staging(place: Path, bandwidth: float) -> str:
    """Options for `Checkpointer`: first to a folder that stands for the disk of the node that the job is on."""
    return f'stage_dir="{place}/disk-of-$SLURMD_NODENAME", drain_bandwidth={bandwidth}'


def kill_while_draining(doomed: list[int], run: Run) -> int:
    """Kill processes while a checkpoint is half in the run directory; the newest step that is there whole."""
    trainer = run.starts[-1][1]
    for _ in waiting(PATIENCE, 0.01):
        # Stopped before it is looked at, so that what is seen is what is killed.
        os.kill(trainer, signal.SIGSTOP)
        drafts = list(run.path.glob("attempts/*.work/step-*/ballast.safetensors"))
        if any(not draft.with_name("manifest.json").exists() for draft in drafts):
            kill(doomed)
            return max(int(path.name[5:]) for path in run.path.glob("step-*"))
        os.kill(trainer, signal.SIGCONT)
    raise AssertionError("nothing was on its way")


def drained(cluster: Cluster, place: Path) -> Outcome:
    """By way of the node's disk, which is much faster. After a signal all is brought; when the job is killed while a
    checkpoint is on its way, what is on the disk is found again."""
    training = (*SHORT, "--ballast", "20000000")
    number, run = job(cluster, place, "--partition=lone", training=training, checkpointer=staging(place, 4e6))
    run.reach(17)
    cluster.run("scancel", "--signal=USR2", number)
    run.reach(43, 2)
    newest = kill_while_draining([run.starts[1][1]], run)
    assert newest + EVERY < run.step, "the run directory is as new as the node's disk: nothing is shown by this"
    cluster.wait_for_state(number, "FAILED")
    cluster.run("scontrol", "requeue", number)
    run.finish()
    assert told(place).count("read from the disk of this node") == 2
    outcome = run.check(attempts=3, most_lost=EVERY)
    assert run.starts[1][0] >= 17, "what the signal asked for was not saved"
    return outcome


def drained_elsewhere(cluster: Cluster, place: Path) -> Outcome:
    """The job comes to another node: it continues what had got into the run directory, which may not be older than an interval."""
    training = (*SHORT, "--ballast", "2000000", DURABLE)
    number, run = job(cluster, place, "--partition=fragile", training=training, checkpointer=staging(place, 8e6))
    run.reach(33)
    node, doomed = on_node(cluster, number)
    newest = kill_while_draining(doomed, run)
    assert newest < run.step, "all was in the run directory: nothing is shown by this"
    run.reach(34, 2)
    cluster.start_node(node)
    run.finish()
    assert "read from the disk of this node" not in told(place)
    assert run.starts[1][0] == newest
    return run.check(attempts=2, most_lost=EVERY)


SCENARIOS: dict[str, Scenario] = {
    "failure": Scenario(failed, "slurmd and the job killed by SIGKILL"),
    "drain": Scenario(drained, "saved by way of the node's disk; killed while a checkpoint is on its way"),
    "drain-node": Scenario(drained_elsewhere, "the same, durable every 5 steps; the next attempt is on another node"),
    "survivor": Scenario(survived, "the old process lives on beside the restarted one", False),
}
