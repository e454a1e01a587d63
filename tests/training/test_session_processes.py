"""Real processes: killed, signalled, fenced, or ended without a word; the same command goes on until it is through."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from exact_jobs import (
    folder_fixture,  # noqa: F401
    in_child,
    one_thread,  # noqa: F401
)

import milepost
from milepost.errors import RunBusy

SCRIPTS = Path(__file__).parent / "scripts"
JOB = SCRIPTS / "job.py"


def forked(*arguments: object) -> int:
    """The pid of a fork of this process, which has torch loaded already, that is the script."""

    def script() -> None:
        sys.path.insert(0, str(SCRIPTS))
        sys.argv = [str(JOB), *map(str, arguments)]
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        import job

        job.main()

    return in_child(script, wait=False)


def started(*arguments: object) -> subprocess.Popen[str]:
    """The script by a python of its own, in a process group of its own."""
    command = [sys.executable, str(JOB), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for(log: Path, line: str, count: int = 1) -> None:
    deadline = time.monotonic() + 60
    while not log.exists() or len(re.findall(f"^{line}", log.read_text(), re.MULTILINE)) < count:
        assert time.monotonic() < deadline, f"{line!r} never came: {log.read_text() if log.exists() else 'nothing'}"
        time.sleep(0.002)


def losses(log: Path) -> dict[int, set[str]]:
    """Every loss that was seen at each step, over all attempts."""
    found: dict[int, set[str]] = {}
    for step, loss in re.findall(r"^step (\d+) (\S+)$", log.read_text(), re.MULTILINE):
        found.setdefault(int(step), set()).add(loss)
    return found


class Reference:
    """An uninterrupted run."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "whole.log"
        assert ended(forked(folder / "whole", self.log)) == 0
        self.digest = (folder / "whole.log.done").read_text()
        self.losses = losses(self.log)
        assert len(self.losses) == 60
        assert all(len(seen) == 1 for seen in self.losses.values())

    def check(self, log: Path) -> None:
        assert losses(log) == self.losses, "every step had the same loss in every attempt"
        assert Path(f"{log}.done").read_text() == self.digest


@pytest.fixture
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(request.node.name)


def test_killed_at_twenty_instants(folder: Path, reference: Reference, dice: random.Random) -> None:
    kills = runs = 0
    while kills < 20:
        runs += 1
        log, directory = folder / f"{runs}.log", folder / f"run-{runs}"
        while not Path(f"{log}.done").exists():
            pid = forked(directory, log)
            if kills < 20:
                time.sleep(dice.uniform(0.05, 0.5))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            code = ended(pid)
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
        reference.check(log)
    assert kills == 20


def test_signalled_at_random_moments(folder: Path, reference: Reference, dice: random.Random) -> None:
    log, stops = folder / "log", 0
    for attempt in range(1, 100):
        pid = forked(folder / "run", log)
        wait_for(log, f"open {attempt} ")
        time.sleep(dice.uniform(0, 0.25) if attempt > 2 else 0)
        with contextlib.suppress(ProcessLookupError):
            for _ in range(dice.choice((1, 1, 2, 30))):
                os.kill(pid, dice.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)))
        code = ended(pid)
        assert code in (0, milepost.STOPPED)
        if code == 0:
            break
        stops += 1
    assert stops >= 4
    reference.check(log)
    text = log.read_text()
    assert len(re.findall(r"^step", text, re.MULTILINE)) == 60, "no step was done twice, so none was lost"


def test_a_signal_to_all_processes_of_a_job_with_workers(folder: Path, reference: Reference) -> None:
    log = folder / "log"
    job = started(folder / "run", log, "--workers", 2)
    wait_for(log, "step 20 ")
    os.killpg(job.pid, signal.SIGTERM)
    _, said = job.communicate(timeout=60)
    assert job.returncode == milepost.STOPPED == 75, said
    assert "SIGTERM" in said
    assert "run the same command again" in said
    assert "Traceback" not in said
    job = started(folder / "run", log, "--workers", 1)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 0, said
    reference.check(log)


def steps(directory: Path) -> list[str]:
    return sorted(one.name for one in directory.glob("step-*"))


@pytest.mark.parametrize(("how", "code"), [("exit", 3), ("raise", 1), ("fall", 0), ("thread", 0)])
def test_the_interpreter_ends_without_a_word(how: str, code: int, folder: Path) -> None:
    job = started(folder / "run", folder / "log", "--steps", 7, "--every", 1000, "--end", how)
    _, said = job.communicate(timeout=60)
    assert job.returncode == code, said
    assert steps(folder / "run") == ["step-00000007"], "the save in flight is finished"
    assert ("a bug in the script" in said) == (how == "raise")
    assert said.count("Traceback") == (how == "raise"), "and nothing else goes wrong"
    source = milepost.open(folder / "run" / "step-00000007")
    assert all(source[path].nbytes >= 0 for path in source), "and is whole"
    assert ended(forked(folder / "run", folder / "log")) == 0, "nobody holds the run"


@pytest.fixture
def first(folder: Path) -> Iterator[subprocess.Popen[str]]:
    job = started(folder / "run", folder / "log", "--pause", 0.2, "--every", 1, "--epochs", 99)
    wait_for(folder / "log", "step 3 ")
    yield job
    job.kill()
    job.communicate()


def test_a_second_process_is_refused(folder: Path, first: subprocess.Popen[str]) -> None:
    with pytest.raises(RunBusy) as caught:
        milepost.Checkpointer(folder / "run", progress=False)
    assert f"process {first.pid}" in str(caught.value)
    assert "takeover=True" in (caught.value.hint or "")
    second = started(folder / "run", folder / "other")
    _, said = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "RunBusy" in said
    at = len(losses(folder / "log"))
    wait_for(folder / "log", f"step {at + 3} ")
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 75, "the first was not disturbed"


def test_the_stale_process_stops_after_a_takeover_and_nothing_of_it_is_seen(
    folder: Path, first: subprocess.Popen[str]
) -> None:
    more = ("--takeover", "--pause", 0.01, "--steps", 150, "--epochs", 99)
    second = started(folder / "run", folder / "other", *more)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "RunFenced" in said
    assert "a newer attempt has taken over" in said
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    begun = int(re.findall(r"^open 2 (\d+)$", (folder / "other").read_text(), re.MULTILINE)[0])
    assert 2 <= begun < 100
    for one in (folder / "run").glob("step-*"):
        summary = milepost.open(one).metadata
        assert summary["attempt"] == (1 if summary["step"] <= begun else 2), one
    assert milepost.open(folder / "run").metadata["step"] == 150
    assert not list((folder / "run" / "attempts").glob("*.work*"))
    stale, new = losses(folder / "log"), losses(folder / "other")
    assert all(stale[step] == new[step] for step in stale.keys() & new.keys()), "what both did was the same"
