"""Attempts that must stop although there is more to do: the state is saved, the job goes back into the queue or is told apart."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slurm_play import Play, asked, slurm, squeue  # noqa: F401

import milepost
from milepost.errors import ScriptError
from milepost.training.ending import process_began
from milepost.training.signals import _installed


def train(directory: Path, count: int = 50, *, stop_at: int | None = None, **options: Any) -> int | None:
    """Count to `count`, with a SIGTERM at step `stop_at`; the exit code, or None for a clean end."""
    try:
        with milepost.Checkpointer(directory, w=np.zeros(1), **{"progress": False, **options}) as run:
            for step in run.steps(count):
                if step == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                run.step(w=run["w"] + 1)
        assert run["w"][0] == count
    except milepost.Stopped as stopped:
        return int(str(stopped.code))
    return None


def steps(directory: Path) -> list[int]:
    return sorted(int(one.name[5:]) for one in directory.glob("step-*"))


@pytest.fixture(autouse=True)
def no_watch_is_left() -> Iterator[None]:
    """After a requeue, and in scripts without ``with``, signals are noticed until the process ends."""
    yield
    while _installed:
        _installed[-1].uninstall()


@pytest.fixture
def job(slurm: Play, monkeypatch: pytest.MonkeyPatch) -> Play:  # noqa: F811
    """Inside of Slurm job 12, which has a day left."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    slurm(squeue=squeue("12"), scontrol="")
    return slurm


def test_a_time_limit_saves_and_stops_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run", time_limit=0.5) == milepost.STOPPED
    assert "time limit: step 1 is saved; run the same command again" in capsys.readouterr().err
    assert steps(tmp_path / "run") == [1]
    assert train(tmp_path / "run", time_limit="1d") is None


def test_a_time_limit_counts_from_the_start_of_the_process() -> None:
    code = "from milepost.training.ending import process_began; import time; print(time.time() - process_began())"
    before = process_began()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0 <= age < 600
    assert abs(process_began() - before) < 0.1


@pytest.mark.parametrize(
    "options", [{"time_limit": 0}, {"time_limit": "soon"}, {"requeue": "always"}, {"max_requeues": -1}]
)
def test_options_that_cannot_be(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ScriptError, match=next(iter(options))):
        milepost.Checkpointer(tmp_path / "run", w=np.zeros(1), **options)


def test_the_limit_of_the_job_stops_it_too(job: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job(squeue=squeue("12", left=5, limit="1:00"))
    assert train(tmp_path / "run") == milepost.STOPPED
    assert "scontrol requeue 12" in asked(tmp_path)
    told = capsys.readouterr().err
    assert "Slurm job 12: 00:00:0" in told
    assert "time limit: step 1 is saved; this attempt ends" in told


def test_a_limit_that_nobody_knows_is_said_at_the_start(
    job: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job(squeue="exit 1")
    assert train(tmp_path / "run", 3) is None
    assert "its time limit is not known" in capsys.readouterr().err


def test_a_child_of_the_batch_script_is_told_so(
    job: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_STEP_ID")
    assert train(tmp_path / "run", 3) is None
    assert "put srun or exec before the command" in capsys.readouterr().err


def test_a_signal_requeues_once_the_run_is_closed(job: Play, tmp_path: Path) -> None:
    """What `scontrol` finds when it is called: the attempt has ended, and its checkpoint is there."""
    job(
        scontrol=f"/bin/ls {tmp_path}/run > {tmp_path}/seen; /bin/cat {tmp_path}/run/attempts/1.json >> {tmp_path}/seen"
    )
    assert train(tmp_path / "run", stop_at=4) == milepost.STOPPED
    seen = (tmp_path / "seen").read_text()
    assert "step-00000005" in seen
    assert '"ended": "stopped"' in seen
    assert asked(tmp_path).count("scontrol requeue 12") == 1


def test_requeue_never(job: Play, tmp_path: Path) -> None:
    assert train(tmp_path / "run", stop_at=4, requeue="never") == milepost.STOPPED
    assert not any(line.startswith("scontrol") for line in asked(tmp_path))


def test_what_is_finished_does_not_go_back(job: Play, tmp_path: Path) -> None:
    """Though a signal came in the very last step."""
    assert train(tmp_path / "run", 5) is None
    assert train(tmp_path / "run", 5) is None
    assert not any(line.startswith("scontrol") for line in asked(tmp_path))


def test_where_it_is_not_allowed_the_exit_code_says_so(
    job: Play, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job(scontrol="echo 'Requested operation is presently disabled' >&2; exit 1")
    assert train(tmp_path / "run", stop_at=4) == milepost.STOPPED
    told = capsys.readouterr().err
    assert "presently disabled" in told
    assert "not requeued: the next job of a chain continues, or run the same command again to continue" in told
    assert "the exit code is 75" in told


@pytest.mark.parametrize(
    ("state", "cluster", "opens"),
    [
        ("TIMEOUT 0 1 TimeLimit", "here", True),
        ("RUNNING 0 1 None", "here", False),
        ("TIMEOUT 0 1 None", "there", False),
    ],
)
def test_the_next_job_of_a_chain_begins_on_another_node(
    job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, cluster: str, opens: bool
) -> None:
    """At once after the one before was killed: its heart beat less than a minute ago, but Slurm knows that it is over."""
    run = tmp_path / "run"
    environment = {**os.environ, "SLURM_JOB_ID": "11", "SLURM_CLUSTER_NAME": cluster}
    code = (
        "import os, sys, numpy as np, milepost; run = milepost.Checkpointer(sys.argv[1], w=np.zeros(1));"
        "run.step(w=run['w'] + 1); run.save(); run.wait(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, run], env=environment, check=False).returncode == 9
    lock = run / "attempts/1.lock"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"host": "another node"}))
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
    job(squeue=f"{squeue('11', state)}; {squeue('12')}")
    if opens:
        assert train(run, 3) is None
    else:
        with pytest.raises(milepost.errors.RunBusy):
            train(run, 3)


def test_a_second_task_of_the_job_is_told_so(job: Play, tmp_path: Path) -> None:
    with (
        milepost.Checkpointer(tmp_path / "run", w=np.zeros(1), progress=False),
        pytest.raises(milepost.errors.RunBusy, match="several tasks of this job"),
    ):
        milepost.Checkpointer(tmp_path / "run", w=np.zeros(1), progress=False)


def test_max_requeues(job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = []
    for restart in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        codes.append(train(tmp_path / "run", stop_at=4 * restart, max_requeues=2))
    assert codes == [milepost.STOPPED, milepost.STOPPED, milepost.STUCK]
    assert asked(tmp_path).count("scontrol requeue 12") == 2


def test_two_attempts_that_save_nothing_new_end_it(
    job: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attempt(restart: int, *, makes_progress: bool) -> int | None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        try:
            with milepost.Checkpointer(tmp_path / "run", w=np.zeros(1), progress=False) as run:
                for _ in run.steps(50):
                    if makes_progress:
                        run.step(w=run["w"] + 1)
                    os.kill(os.getpid(), signal.SIGTERM)
                    run._session.boundary(None)
        except milepost.Stopped as stopped:
            return int(str(stopped.code))
        return None

    made = [True, False, True, False, False]
    codes = [attempt(restart, makes_progress=one) for restart, one in enumerate(made)]
    assert codes == [milepost.STOPPED] * 4 + [milepost.STUCK]
    assert asked(tmp_path).count("scontrol requeue 12") == 4
    assert "the last 2 attempts saved nothing new" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    assert attempt(0, makes_progress=False) == milepost.STOPPED, "another job has its own two tries"


SCRIPT = """
import os, signal, sys
import numpy as np
import milepost

run = milepost.Checkpointer(sys.argv[1], w=np.zeros(1), progress=False)
for step in run.steps(9):
    if step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    run.step(w=run["w"] + 1)
"""


def test_a_script_without_with_requeues_at_its_end(job: Play, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "run"], check=False)
    assert done.returncode == milepost.STOPPED
    assert asked(tmp_path).count("scontrol requeue 12") == 1
    assert steps(tmp_path / "run") == [4]


def test_signals_while_it_stops_do_not_cut_it_off(job: Play, tmp_path: Path) -> None:
    """Slurm sends SIGTERM again when it requeues, and the end of the script has time until the kill."""
    job(scontrol="kill -TERM $PPID")
    script = SCRIPT.replace("run = milepost", "with milepost").replace("progress=False)", "progress=False) as run:")
    head, loop = script.split("for step")
    script = head + "\n".join("    " + line for line in ("for step" + loop).splitlines())
    guarded = "\n".join("    " + line for line in script.splitlines())
    script = f"import time\ntry:\n{guarded}\nfinally:\n    time.sleep(0.1)\n    open(sys.argv[1] + '.end', 'w')\n"
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], check=False)
    assert done.returncode == milepost.STOPPED
    assert (tmp_path / "run.end").exists()
    assert json.loads((tmp_path / "run/attempts/1.json").read_text())["ended"] == "stopped"


PLAIN = Path(__file__).parent / "scripts" / "plain.py"


def started(directory: Path, how: str) -> subprocess.Popen[str]:
    """A script that has opened its run, by a python of its own."""
    process = subprocess.Popen([sys.executable, str(PLAIN), str(directory), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.parametrize("how", ["with", "bare"])
def test_a_storm_that_goes_on_until_the_process_is_gone(how: str, tmp_path: Path) -> None:
    """While it saves, unwinds, ends its threads, and while the interpreter takes itself down."""
    kinds = itertools.cycle((signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))
    for number in range(4):
        process = started(tmp_path / str(number), how)
        while process.poll() is None:
            process.send_signal(next(kinds))
            time.sleep(0.0005)
        assert process.returncode == milepost.STOPPED
        process.communicate()


def said_after(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    """What becomes of a process that gets a signal when its run has ended and it has more to do."""
    assert process.stdout is not None
    assert process.stdout.readline() == "closed\n"
    process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    return process.returncode, rest


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_the_warning_of_slurm_does_not_end_what_comes_after_the_run(number: int, job: Play, tmp_path: Path) -> None:
    assert said_after(started(tmp_path / "run", "after"), number) == (0, "done\n")


def test_other_signals_end_it_as_ever(job: Play, tmp_path: Path) -> None:
    assert said_after(started(tmp_path / "run", "after"), signal.SIGTERM) == (-signal.SIGTERM, "")


def test_outside_of_slurm_all_do(tmp_path: Path) -> None:
    assert said_after(started(tmp_path / "run", "after"), signal.SIGUSR1) == (-signal.SIGUSR1, "")


def test_the_signal_that_comes_twice(job: Play, tmp_path: Path) -> None:
    """`srun` tasks get SIGTERM twice, milliseconds apart."""
    script = SCRIPT.replace("os.kill(os.getpid(), signal.SIGTERM)", "[os.kill(os.getpid(), 15) for _ in range(2)]")
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], check=False)
    assert done.returncode == milepost.STOPPED
    assert asked(tmp_path).count("scontrol requeue 12") == 1


def test_it_stops_before_the_limit_during_validation_too(tmp_path: Path) -> None:
    with contextlib.suppress(milepost.Stopped):
        run = milepost.Checkpointer(tmp_path / "run", w=np.zeros(1), progress=False, time_limit="1d")
        for _ in run.epochs(1):
            for _ in run.batches([1, 2]):
                run.step(w=run["w"] + 1)
            run._ending._own = 0.0  # the time is up
            for _ in run.batches([1, 2, 3], train=False):
                run.vars["validated"] = True
        raise AssertionError("it went on")
    assert steps(tmp_path / "run") == [2]
    assert "validated" not in milepost.open(tmp_path / "run").plain
