"""Worker processes: they outlive the signals meant for the trainer, and nothing else."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.utils.data._utils
from loader_data import Everything, Pids, drain, resume, seed_everything, train
from loader_trainer import SIGNALS, Slow
from torch.utils.data import DataLoader

from milepost.training.feeds import feed_for, shield


@contextmanager
def trainer(mode: str) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("loader_trainer.py")
    process = subprocess.Popen(
        [sys.executable, str(script), mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return json.loads(line)  # type: ignore[no-any-return]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone_within(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("mode", ["fork", "spawn", "untracked"])
def test_signals_to_all_processes_reach_the_trainer_alone(mode: str) -> None:
    with trainer(mode) as process:
        pids = said(process)["workers"]
        assert len(pids) >= 2
        for _ in range(3):
            for number in SIGNALS:
                os.killpg(process.pid, number)
                time.sleep(0.01)
        assert said(process) == {"count": 40, "seen": sorted(SIGNALS)}
        assert process.wait(timeout=60) == 0
        assert gone_within(pids, 20)


def test_signals_while_workers_start() -> None:
    with trainer("storm") as process:
        assert said(process) == {"count": 100}
        assert process.wait(timeout=60) == 0


def test_the_interpreter_ends_at_once_with_workers_alive() -> None:
    with trainer("leave") as process:
        pids = said(process)["workers"]
        assert len(pids) == 6
        assert process.wait(timeout=60) == 0  # multiprocessing waits for ever
        assert gone_within(pids, 20)
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_workers_end_when_the_trainer_was_killed() -> None:
    with trainer("fork") as process:
        pids = said(process)["workers"]
        process.kill()
        assert gone_within(pids, 60)  # PyTorch's workers look every 5 s


@pytest.mark.parametrize("persistent", [False, True])
def test_leaving_a_pass_and_starting_the_next(persistent: bool) -> None:
    before = set(multiprocessing.active_children())
    feed = feed_for(DataLoader(Pids(), 2, num_workers=2, persistent_workers=persistent))
    groups = []
    for _ in range(3):
        feed.begin(None)
        groups.append({pid for _ in range(2) for pid in feed.next().tolist()})  # type: ignore[attr-defined]
        assert len(set(multiprocessing.active_children()) - before) == 2
    assert (groups[0] == groups[1] == groups[2]) is persistent
    feed.close()
    assert len(set(multiprocessing.active_children()) - before) == (2 if persistent else 0)
    assert list(drain(feed)) == []
    feed.begin(None)
    assert len(list(drain(feed))) == 6
    del feed
    assert set(multiprocessing.active_children()) <= before


def test_a_worker_that_is_stuck_does_not_hold_up_the_end() -> None:
    before = set(multiprocessing.active_children())
    feed = feed_for(DataLoader(Slow(600, 3), 1, num_workers=1, prefetch_factor=1))
    feed.begin(None)
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(KeyboardInterrupt):
        feed.next()
    assert set(multiprocessing.active_children()) <= before


def test_workers_of_an_iterator_that_is_lost_in_a_cycle_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # The queues go before the iterator can use them: PyTorch waits (for 5 s), and then it insists.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    iterator = iter(shield(DataLoader(Slow(0.01), 1, num_workers=1)))
    next(iterator)
    pids = [process.pid for process in iterator._workers]  # type: ignore[attr-defined]
    cycle = [iterator]
    cycle.append(cycle)
    del iterator, cycle
    gc.collect()
    assert gone_within(pids, 20)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def test_spawned_workers_load_what_forked_ones_do() -> None:
    def loader(**options: Any) -> DataLoader[Any]:
        return DataLoader(Everything(own_torch=False), 5, shuffle=True, **options)

    runs = []
    for context in ("spawn", "fork"):
        seed_everything(1)
        runs.append(train(loader(num_workers=1, multiprocessing_context=context), 1))
    (trace, snapshots), (forked, _) = runs
    assert trace == forked
    assert resume(loader(), snapshots[0][2], 2, 1) == [trace[0][2:]]
