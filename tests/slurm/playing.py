"""Training jobs on a `Cluster`, and what must come out of them: what scenarios are made of."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cluster import Cluster, waiting

TRAINER = Path(__file__).with_name("trainer.py")
SOURCES = Path(__file__).parents[2] / "src"
EVERY = 5
"""Steps between two saves."""
PAUSE = 0.1
"""Seconds that a step takes, at least."""
SHORT = ("--epochs", "6")
"""The training of jobs that are interrupted after seconds: 120 steps."""
LONG = ("--epochs", "45")
"""That of jobs that go beyond a limit of a minute."""
TORCH = (*LONG, "--torch")
DURABLE = "--durable"
"""The trainer is never further than `EVERY` steps beyond what is durable. Without it, what is killed can lose, beside an interval,
what it did while a save was on its way."""
PATIENCE = 600.0
"""Seconds for a whole job, requeued and all."""
STOPPED = 75


class Outcome(NamedTuple):
    """What a scenario came to: attempts that were made, steps that were done twice, in all of its runs."""

    attempts: int
    lost: int

    def __str__(self) -> str:
        return f"{self.attempts:2} attempts, {self.lost:2} steps done twice"


class Run:
    """A run of the trainer in a job: what it wrote beside its run directory."""

    def __init__(self, path: Path, training: tuple[str, ...]) -> None:
        self.path, self.training = path, training

    def lines(self) -> Iterator[list[str]]:
        """What it told, word by word."""
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

    def finish(self) -> None:
        """Wait until it is through."""
        for _ in waiting(PATIENCE):
            if self.done:
                return
        raise AssertionError(f"not through after {PATIENCE:.0f} s: step {self.step}, {len(self.starts)} attempts")

    def check(self, attempts: int | None = None, most_lost: int = 0, old: int | None = None) -> Outcome:
        """That it came out as in peace.

        Args:
            attempts: how many there must have been; at least two if None.
            most_lost: steps that each of them but the first may have done again.
            old: a process that went on beside its successor; its lines after that do not count.
        """
        expected, losses = in_peace(self.training)
        assert self.done == expected, f"other weights than in peace: {self.path}"
        reached = lost = opened = 0
        for words in self.lines():
            if words[0] == "open":
                opened += 1
                again = reached - int(words[2])
                assert again <= most_lost, f"{again} steps were lost, at most {most_lost} are allowed: {self.path}"
                lost, reached = lost + max(0, again), int(words[2])
            elif words[0] == "step":
                assert losses[int(words[1])] == words[2], f"step {words[1]} came out otherwise: {self.path}"
                if opened < 2 or int(words[4]) != old:
                    reached = int(words[1])
        count = len(self.starts)
        assert count == attempts if attempts is not None else count > 1, f"{count} attempts: {self.path}"
        return Outcome(count, lost)


@cache
def in_peace(training: tuple[str, ...]) -> tuple[str, dict[int, str]]:
    """The digest, and the loss of each step, of the same training without Slurm."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "run"), training)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        done = subprocess.run(
            [sys.executable, str(TRAINER), str(run.path), *training, "--pause", "0"],
            env={**environment, "PYTHONPATH": str(SOURCES)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert run.done is not None
        return run.done, {int(words[1]): words[2] for words in run.lines() if words[0] == "step"}


def job(
    cluster: Cluster, place: Path, *options: object, training: tuple[str, ...] = SHORT, how: str = "srun",
    name: str = "run", checkpointer: str = "", before: str = "",
) -> tuple[str, Run]:  # fmt: skip
    """Submit a training job.

    Args:
        cluster: where.
        place: where its files go.
        options: for sbatch.
        training: words for the trainer.
        how: what stands before the command in the script: "srun", "exec", "" for a plain child.
        name: of the run; may hold variables of the shell.
        checkpointer: options for `Checkpointer`, as Python.
        before: lines of the script before the command.
    """
    script = place / "job.sh"
    run = Run(place / name, training)
    words = " ".join(command(run))  # whose name may hold variables
    script.write_text(
        f"#!/bin/bash\nexport PYTHONPATH={SOURCES}\n{before}\n{how} {words} --options {shlex.quote(checkpointer)}\n"
    )
    number = cluster.submit(script, "--output", place / "%x-%A-%a.out", "--open-mode=append", *options)
    return number, run


def command(run: Run) -> list[str]:
    """The words that train `run`."""
    return [sys.executable, str(TRAINER), str(run.path), *run.training, "--every", str(EVERY), "--pause", str(PAUSE)]


def module() -> list[str]:
    """An option of ``milepost slurm script`` by which its job finds these sources."""
    return ["--module", f"export PYTHONPATH={SOURCES}:$PYTHONPATH"]


def told(place: Path) -> str:
    """All that the jobs of a scenario wrote."""
    return "".join(path.read_text() for path in place.glob("*.out"))


def milepost(cluster: Cluster, *words: object, code: int = 0) -> str:
    """What the command line prints, ending with this code."""
    done = subprocess.run(
        [sys.executable, "-m", "milepost", *map(str, words)],
        env={**cluster.environment, "PYTHONPATH": str(SOURCES)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Scenario:
    """A function of the cluster and a folder of its own."""

    play: Callable[[Cluster, Path], Outcome]
    what: str
    short: bool = True
