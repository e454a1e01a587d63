"""What is done to jobs; see `real.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cluster import Cluster, alive, waiting

TRAINER = Path(__file__).with_name("trainer.py")
SOURCES = Path(__file__).parents[2] / "src"
EVERY = 5
"""Steps between two saves."""
PAUSE = 0.1
"""Seconds that a step takes, at least."""
SHORT, LONG = 8, 45
"""Epochs of 20 steps: for jobs that are interrupted after seconds, and for those that go beyond a limit of a minute."""
PATIENCE = 400.0
STOPPED = 75


class Outcome(NamedTuple):
    """What a scenario came to: attempts that were made, steps that were done twice, in all of its runs."""

    attempts: int
    lost: int

    def __str__(self) -> str:
        return f"{self.attempts:2} attempts, {self.lost:2} steps done twice"


class Run:
    """A run of the trainer in a job: what it wrote beside its run directory."""

    def __init__(self, path: Path, epochs: int) -> None:
        self.path, self.epochs = path, epochs

    def lines(self) -> Iterator[list[str]]:
        path = Path(f"{self.path}.log")
        if path.exists():
            for line in path.read_text().splitlines():
                yield line.split()

    @property
    def step(self) -> int:
        """The last step that was begun."""
        return max((int(words[1]) for words in self.lines() if words[0] == "step"), default=0)

    @property
    def starts(self) -> list[tuple[int, int]]:
        """(step, process) of each attempt."""
        return [(int(words[2]), int(words[3])) for words in self.lines() if words[0] == "open"]

    @property
    def done(self) -> str | None:
        """The digest of the weights, once it is through."""
        path = Path(f"{self.path}.done")
        return path.read_text() if path.exists() else None

    def reach(self, step: int, attempt: int = 1) -> None:
        """Wait until attempt `attempt` has done `step`."""
        for _ in waiting(PATIENCE):
            if len(self.starts) >= attempt and self.step >= step:
                return
        raise AssertionError(f"step {step} of attempt {attempt} was not reached: {self.step}, {self.starts}")

    def finish(self, seconds: float = PATIENCE) -> None:
        """Wait until it is through."""
        for _ in waiting(seconds):
            if self.done:
                return
        raise AssertionError(f"not through after {seconds:.0f} s: step {self.step}, {len(self.starts)} attempts")

    def check(self, attempts: int | None = None, most_lost: int = 0) -> Outcome:
        """That it came out as in peace.

        Args:
            attempts: how many there must have been; at least two if None.
            most_lost: steps that each of them but the first may have done again.
        """
        expected, losses = REFERENCE[self.epochs]
        assert self.done == expected, f"other weights than in peace: {self.path}"
        reached = lost = 0
        for words in self.lines():
            if words[0] == "open":
                again = reached - int(words[2])
                assert again <= most_lost, f"{again} steps were lost, at most {most_lost} are allowed: {self.path}"
                lost, reached = lost + max(0, again), int(words[2])
            elif words[0] == "step":
                reached = int(words[1])
                assert losses[reached] == words[2], f"step {reached} came out otherwise: {self.path}"
        count = len(self.starts)
        assert count == attempts if attempts is not None else count > 1, f"{count} attempts: {self.path}"
        return Outcome(count, lost)


REFERENCE: dict[int, tuple[str, dict[int, str]]] = {}
"""By epochs: the digest, and the loss of each step, of training in peace."""


def reference(folder: Path) -> None:
    """Train in peace, without Slurm."""
    for epochs in (SHORT, LONG):
        run = Run(folder / f"peace-{epochs}", epochs)
        words = [sys.executable, TRAINER, run.path, "--epochs", epochs, "--pause", 0]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        done = subprocess.run(
            [str(word) for word in words],
            env={**environment, "PYTHONPATH": str(SOURCES)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        losses = {int(words[1]): words[2] for words in run.lines() if words[0] == "step"}
        assert run.done is not None
        REFERENCE[epochs] = run.done, losses


def job(
    cluster: Cluster, place: Path, *options: object, epochs: int = SHORT, how: str = "srun", name: str = "run",
    checkpointer: str = "", before: str = "", after: str = "",
) -> tuple[str, Run]:  # fmt: skip
    """Submit a training job.

    Args:
        cluster: where.
        place: where its files go.
        options: for sbatch.
        epochs: how long.
        how: what stands before the command in the script: "srun", "exec", "" for a plain child.
        name: of the run; may hold variables of the shell.
        checkpointer: options for `Checkpointer`, as Python.
        before: lines of the script before the command.
        after: and after it.
    """
    script = place / "job.sh"
    run = Run(place / name, epochs)
    words = f"{sys.executable} {TRAINER} {run.path} --epochs {epochs} --every {EVERY} --pause {PAUSE}"
    script.write_text(
        f"#!/bin/bash\nexport PYTHONPATH={SOURCES}\n{before}\n{how} {words} --options '{checkpointer}'\n{after}\n"
    )
    number = cluster.submit(script, "--output", place / "%x-%A-%a.out", "--open-mode=append", *options)
    return number, run


# -- scenarios -----------------------------------------------------------------------------------------------------------


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


def limited(how: str, *options: str, time: int = 1) -> Callable[[Cluster, Path], Outcome]:
    """Goes on beyond a limit of so many minutes."""

    def scenario(cluster: Cluster, place: Path) -> Outcome:
        # Slurm's warning may come half a minute early, and must not come while Python is still importing. And where it is to
        # be the warning that counts, the process must not know the limit better.
        before = NO_SQUEUE if options else ""
        number, run = job(
            cluster, place, f"--time={time}", *options, epochs=LONG, how=how, before=before.format(place=place)
        )
        run.finish()
        for _ in waiting(30):
            if cluster.state(number) == "COMPLETED":
                break
        assert cluster.state(number) == "COMPLETED", "what is finished does not go back into the queue"
        told = "".join(path.read_text() for path in place.glob("*.out"))
        assert ("its time limit is not known" if options else "time limit: step") in told
        return run.check()

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


def processes_of(number: str) -> dict[int, str]:
    """The processes that belong to a job by their environment, and the keepers (``slurmstepd``) of its steps: their command."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"SLURM_JOB_ID={number}".encode() in environment or f"slurmstepd: [{number}." in command:
            found[int(path.name)] = command
    return found


def node_of(cluster: Cluster, number: str) -> int:
    return int(cluster.show(number)["NodeList"].removeprefix("node"))


def failed(*, survivor: bool) -> Callable[[Cluster, Path], Outcome]:
    """The node fails: what keeps the job dies at once, and the training too, or it lives on beside the job that was restarted."""

    def scenario(cluster: Cluster, place: Path) -> Outcome:
        # Long enough that the one that lives on is still at work when the other comes.
        number, run = job(cluster, place, f"--partition={'frail' if survivor else 'fragile'}", epochs=LONG)
        run.reach(33)
        node = node_of(cluster, number)
        daemon = cluster.daemon(f"slurmd.node{node}")
        assert daemon is not None
        trainer = run.starts[0][1]
        doomed = [
            process
            for process, command in processes_of(number).items()
            if not survivor or "slurmstepd" in command or "srun" in command
        ]
        for process in (daemon, *doomed):
            os.kill(process, signal.SIGKILL)
        for _ in waiting(120):
            if len(run.starts) > 1 or run.done:
                break
        assert len(run.starts) > 1, f"not restarted: {cluster.state(number)}"
        if survivor:
            for _ in waiting(60):  # until it wants to save
                if not alive(trainer):
                    break
            assert not alive(trainer), "the old process was not stopped by being fenced"
        cluster.start_node(node)
        run.finish()
        return outcome_beside(run, trainer) if survivor else run.check(attempts=2, most_lost=EVERY)

    return scenario


def outcome_beside(run: Run, old: int) -> Outcome:
    """As `Run.check`, where the log has lines of two processes at once."""
    expected, losses = REFERENCE[run.epochs]
    assert run.done == expected
    assert all(losses[int(words[1])] == words[2] for words in run.lines() if words[0] == "step")
    assert ["fenced"] in list(run.lines()), "the old process did not notice"
    reached = 0
    for words in run.lines():
        if words[0] == "open" and int(words[3]) != old:
            again = reached - int(words[2])
            assert 0 <= again <= EVERY, f"{again} steps were lost"
            return Outcome(len(run.starts), again)
        reached = int(words[1]) if words[0] == "step" else reached
    raise AssertionError("not restarted")


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


NO_SQUEUE = """\
mkdir -p {place}/bin
printf '#!/bin/bash\\ncase "$*" in *EndTime*) exit 1;; esac; exec /usr/bin/squeue "$@"\\n' > {place}/bin/squeue
chmod +x {place}/bin/squeue; export PATH={place}/bin:$PATH; unset SLURM_JOB_END_TIME"""
"""A ``squeue`` that does not tell the end of a job."""

NO_SLURM = "export PATH=/usr/sbin:/sbin; unset SLURM_JOB_END_TIME"
"""As in a container: a path without Slurm's commands."""


def chain(cluster: Cluster, place: Path) -> Outcome:
    """Where requeueing is forbidden: each job of a chain begins when the one before has ended, however it did."""
    number, run = job(cluster, place, "--time=1", "--no-requeue", epochs=LONG)
    jobs = [number]
    for _ in range(3):
        options = ("--time=1", "--no-requeue", f"--dependency=afterany:{jobs[-1]}", "--open-mode=append")
        jobs.append(cluster.submit(place / "job.sh", "--output", place / "chain-%A.out", *options))
    run.finish()
    outcome = run.check()
    told = "".join(path.read_text() for path in place.glob("*.out"))
    assert f"the exit code is {STOPPED}" in told
    assert cluster.show(number)["ExitCode"] == f"{STOPPED}:0"
    assert cluster.show(number)["Restarts"] == "0"
    for one in jobs[outcome.attempts :]:
        for _ in waiting(60):
            if cluster.state(one) == "COMPLETED":
                break
        assert cluster.state(one) == "COMPLETED", "a job of the chain that has nothing left to do ends well"
    return outcome


def blind(cluster: Cluster, place: Path) -> Outcome:
    """No signal, and nobody to ask for the limit: killed at it. The next job of the chain continues from the last save."""
    options = {"how": "", "before": NO_SLURM}
    number, run = job(cluster, place, "--time=1", "--no-requeue", epochs=LONG, **options)
    last = number
    for _ in range(2):
        last = cluster.submit(
            place / "job.sh", "--time=1", f"--dependency=afterany:{last}", "--output", place / "chain-%A.out"
        )
    run.finish()
    told = "".join(path.read_text() for path in place.glob("*.out"))
    assert "its time limit is not known" in told
    assert cluster.state(number) == "TIMEOUT"
    return run.check(most_lost=EVERY)


def cancelled(cluster: Cluster, place: Path) -> Outcome:
    """Somebody cancels the job: it must not come back. Submitted again it goes on."""
    number, run = job(cluster, place)
    run.reach(19)
    cluster.run("scancel", number)
    for _ in waiting(30):
        if cluster.state(number) == "CANCELLED":
            break
    assert cluster.state(number) == "CANCELLED"
    cluster.submit(place / "job.sh", "--output", place / "again.out")
    run.finish()
    assert cluster.state(number) == "CANCELLED"
    return run.check(attempts=2)


def stuck(cluster: Cluster, place: Path) -> Outcome:
    """A job that gets nowhere stops requeueing itself, and says so by its exit code."""
    number, run = job(cluster, place, checkpointer="time_limit=0.001", how="exec")
    for _ in waiting(PATIENCE):
        if cluster.state(number) == "FAILED":
            break
    assert cluster.show(number)["ExitCode"] == "76:0"
    return Outcome(len(run.starts), 0)


def generated(cluster: Cluster, place: Path) -> Outcome:
    """A script that ``milepost slurm`` wrote for this cluster, as it submits it and looks after it; the words have a space."""
    run = Run(place / "the run", SHORT)
    train = [sys.executable, TRAINER, run.path, "--epochs", SHORT, "--every", EVERY, "--pause", PAUSE]
    options = ["--time", "10m", "--sbatch", "comment=two words # and more", "--sbatch", f"output={place}/job.out"]
    script = milepost(cluster, "script", *options, "--module", f"export PYTHONPATH={SOURCES}", "--", *train)
    (place / "job.sh").write_text(script)
    assert "as on this cluster" in script or cluster.proctrack != "cgroup"
    number = json.loads(milepost(cluster, "submit", place / "job.sh", "--json"))["jobs"][0]
    run.reach(13)
    told = json.loads(milepost(cluster, "status", run.path, "--json"))
    assert (told["job"], told["job_state"], told["restarts"]) == (number, "RUNNING", 0)
    assert 400 < told["seconds_left"] <= 600
    assert told["step"] >= 2 * EVERY
    shown = cluster.show(number)
    assert (shown["TimeLimit"], shown["Requeue"], shown["Comment"]) == ("00:10:00", "1", "two")
    cluster.run("scancel", "--signal=USR1", number)
    run.finish()
    for _ in waiting(30):
        told = json.loads(milepost(cluster, "status", run.path, "--json"))
        if told["job_state"] == "COMPLETED":
            break
    assert (told["state"], told["job_state"], told["attempts"]) == ("complete", "COMPLETED", 2)
    assert told["lost_steps"] == 0
    return run.check(attempts=2)


def examined(cluster: Cluster, place: Path) -> Outcome:
    """``milepost doctor`` in a job: as a plain child of the script, under srun, and with another attempt alive."""
    words = f"{sys.executable} -m milepost doctor {place}/run --json"
    script = place / "doctor.sh"
    script.write_text(
        f"#!/bin/bash\nexport PYTHONPATH={SOURCES}\n{words} > {place}/child.json\nsrun {words} > {place}/task.json\n"
        f"{NO_SLURM}\n{words} > {place}/blind.json\ntouch {place}/end\n"
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


def milepost(cluster: Cluster, *words: object) -> str:
    """What ``milepost slurm`` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "milepost", "slurm", *map(str, words)],
        env={**cluster.environment, "PYTHONPATH": str(SOURCES)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Scenario:
    """A function of the cluster and a folder of its own."""

    play: Callable[[Cluster, Path], Outcome]
    what: str
    short: bool = True


SCENARIOS = {
    "limit-warned": Scenario(
        limited("srun", "--signal=USR1@45", time=2), "time limit, USR1 to the step before it", False
    ),
    "limit-shell": Scenario(
        limited("exec", "--signal=B:USR1@45", time=2), "time limit, USR1 to the shell, exec python", False
    ),
    "limit-srun": Scenario(limited("srun"), "time limit, no warning, srun", False),
    "limit-child": Scenario(limited(""), "time limit, no warning, plain child of the script", False),
    "chain": Scenario(chain, "requeue forbidden, jobs chained by afterany", False),
    "blind": Scenario(blind, "neither a signal nor a known limit: killed, chained", False),
    "failure": Scenario(failed(survivor=False), "slurmd and the job killed by SIGKILL", False),
    "survivor": Scenario(failed(survivor=True), "the old process lives on beside the restarted one", False),
    "requeue": Scenario(requeued, "scontrol requeue, twice"),
    "signal-srun": Scenario(signalled("srun", "--signal=USR2"), "USR2 to the step: requeues itself, twice"),
    "signal-shell": Scenario(
        signalled("exec", "--batch", "--signal=TERM"), "TERM to the shell, exec python: requeues itself, twice"
    ),
    "preemption": Scenario(preempted, "preempted by a higher partition, twice"),
    "array": Scenario(array, "an array, one task of which is stopped twice"),
    "stuck": Scenario(stuck, "gets nowhere: two attempts, then exit code 76"),
    "generated": Scenario(generated, "a script that milepost slurm wrote, submitted and looked after"),
    "doctor": Scenario(examined, "milepost doctor, as a plain child and under srun"),
    "cancelled": Scenario(cancelled, "cancelled: does not come back by itself"),
}
