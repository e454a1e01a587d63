"""Saving by way of the node's disk: where things are, what is continued from where, what is brought and what is not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import milepost
from milepost.cli.main import main
from milepost.errors import MilepostWarning, ScriptError
from milepost.storage.faults import FaultyStorage, fail, on
from milepost.storage.local import LocalStorage
from milepost.training import checkpointer, opening, watching
from milepost.training.room import Room
from milepost.training.session import Stopped

SIZE = 1_000_000
SLOW = 1e6
"""Bytes a second: what is 8 MB is on its way for long."""


def open_run(folder: Path, node: str = "node", **options: Any) -> milepost.Checkpointer:
    return milepost.Checkpointer(
        folder / "run", stage_dir=folder / node, w=np.zeros(SIZE), progress=False, requeue="never", **options
    )


def step(run: milepost.Checkpointer, to: int) -> None:
    for _ in range(run.progress.step, to):
        run.step(w=run["w"] + 1)


def staged(folder: Path, node: str = "node") -> list[str]:
    return sorted(path.name for path in (folder / node).glob("*/*/step-*"))


def on_its_way(folder: Path) -> list[Path]:
    return list((folder / "run/attempts").glob("*.work/step-*"))


def in_run(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run").glob("step-*"))


def left_on_node(folder: Path, at: int, node: str = "node", **options: Any) -> None:
    """An attempt that is stopped at step `at`, with no time to bring it to the run directory."""
    with pytest.raises(Stopped), open_run(folder, node, drain_bandwidth=SLOW, time_limit=1e9, **options) as run:
        run_out_of_time(run, at)


def run_out_of_time(run: milepost.Checkpointer, at: int) -> None:
    step(run, at - 1)
    run._ending._deadline._ends = lambda: time.time() + 2.3
    run._session.saver.hurry = lambda: None  # type: ignore[method-assign]
    stop(run, at)


def stop(run: milepost.Checkpointer, at: int) -> None:
    """Train to step `at`, at whose end a signal is answered."""
    step(run, at - 1)
    signal.raise_signal(signal.SIGTERM)
    step(run, at)


def test_all_is_brought_and_nothing_stays_on_the_node(tmp_path: Path) -> None:
    with open_run(tmp_path, every=milepost.Every(steps=2)) as run:
        step(run, 5)
        pending = run.save()
        assert pending is not None
        assert pending.result().step == 5
        assert pending.on_node is not None
        assert pending.on_node.step == 5
        run.wait()
        assert staged(tmp_path)[-1] == "step-00000005"
    assert in_run(tmp_path)[-1] == "step-00000005"
    assert list((tmp_path / "node").iterdir()) == []
    assert main(["verify", str(tmp_path / "run")]) == 0
    assert milepost.open(str(tmp_path / "run"))["w"][0] == 5


def test_what_was_left_on_the_node_is_continued_there_and_brought(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_on_node(tmp_path, 3)
    assert in_run(tmp_path) == []
    assert staged(tmp_path) == ["step-00000003"]
    assert "step 3 is on the disk of this node alone, nothing new in the run directory" in capsys.readouterr().err
    assert main(["ls", str(tmp_path / "run")]) == 0
    assert f"step 3 is on the disk of {os.uname().nodename} alone: {tmp_path}/node/" in capsys.readouterr().out
    assert main(["slurm", "status", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["on_node"]["step"] == 3
    with open_run(tmp_path) as run:
        assert run.progress.step == 3
        assert run["w"][0] == 3
        assert any("read from the disk of this node" in note for note in run.resume_report.notes)
        run.wait()
        assert in_run(tmp_path) == ["step-00000003"]
        step(run, 4)
    assert in_run(tmp_path) == ["step-00000003", "step-00000004"]
    main(["ls", str(tmp_path / "run"), "--json"])
    assert json.loads(capsys.readouterr().out)["runs"][0]["on_node"] is None


def test_another_node_continues_what_is_in_the_run_directory(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        step(run, 2)
    left_on_node(tmp_path, 4)
    with open_run(tmp_path, "elsewhere") as run:
        assert run.progress.step == 2
        step(run, 3)
    # Back on the first node: what it has is no part of this history.
    with open_run(tmp_path) as run:
        assert run.progress.step == 3
        assert run["w"][0] == 3


def test_numbers_that_came_again_are_another_branch(tmp_path: Path) -> None:
    """Somebody puts an older copy of the run directory back: attempt 2 is made a second time, elsewhere."""
    with open_run(tmp_path) as run:
        step(run, 2)
    shutil.copytree(tmp_path / "run", tmp_path / "backup", symlinks=True)
    left_on_node(tmp_path, 9)
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "backup").rename(tmp_path / "run")
    with open_run(tmp_path, "elsewhere") as run:
        assert run.progress.attempt == 2
        step(run, 3)
    with open_run(tmp_path) as run:
        assert run.progress.step == 3
    assert staged(tmp_path) == []


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_the_nearest_good_copy(tmp_path: Path) -> None:
    def stopped(to: int) -> milepost.Checkpointer:
        with pytest.raises(Stopped), open_run(tmp_path) as run:
            stop(run, to)
        return run

    stopped(2)
    assert in_run(tmp_path) == staged(tmp_path) == ["step-00000002"]
    # The run directory's own would not do: the copy on the node is read.
    damage(tmp_path / "run/step-00000002/w.safetensors")
    assert "read from the disk of this node" in str(stopped(3).resume_report.notes)
    damage(next((tmp_path / "node").glob("*/*/step-00000003/w.safetensors")))
    report = stopped(4).resume_report
    assert [folder for folder, _ in report.passed_over] == ["step-00000003"]
    assert "the copy on this node" in report.passed_over[0][1]
    assert report.checkpoint is not None
    assert (report.checkpoint.step, report.notes) == (3, ())


def test_what_waits_is_overtaken_but_for_what_is_to_be_kept(tmp_path: Path) -> None:
    keep = milepost.Keep(last=2, best=("score", "max"), every_steps=4)
    with open_run(tmp_path, keep=keep, drain_bandwidth=SLOW) as run:
        pendings = {}
        for number, score in enumerate([0, 1, 9, 2, 3, 1, 2], 1):
            run.step(w=run["w"] + 1, score=float(score))
            pendings[number] = run.save()
            while not on_its_way(tmp_path):  # step 1, until all are there
                time.sleep(0.01)
        while (last := pendings[7]) is None or last.on_node is None:
            time.sleep(0.01)
        run._session.saver.hurry()
        run.wait()
        reached = {number: pending.result().step for number, pending in pendings.items() if pending is not None}
        assert all(pending is not None and pending.done() for pending in pendings.values())
    assert reached[1] == 1
    assert reached[3] == 3, "the best"
    assert reached[4] == 4, "a multiple of four"
    assert reached[7] == 7
    assert (reached[2], reached[5], reached[6]) == (3, 7, 7), "overtaken"
    assert {"step-00000003", "step-00000004", "step-00000007"} <= set(in_run(tmp_path))
    assert all(pending is not None and pending.seconds is None for pending in (pendings[5], pendings[6]))


def test_a_step_that_is_saved_again_while_it_is_on_its_way(tmp_path: Path) -> None:
    with open_run(tmp_path, drain_bandwidth=SLOW) as run:
        step(run, 1)
        first = run.save()
        assert first is not None
        while not on_its_way(tmp_path):
            time.sleep(0.01)
        run["w"][0] = 77
        second = run.save()
        run._session.saver.hurry()
        assert second is not None
        assert first.result() == second.result()
        assert milepost.open(str(tmp_path / "run"))["w"][0] == 77


def test_the_bandwidth_is_kept(tmp_path: Path) -> None:
    with open_run(tmp_path, drain_bandwidth=8 * SIZE / 0.5) as run:
        step(run, 1)
        began = time.monotonic()
        pending = run.save()
        assert pending is not None
        pending.result()
        assert time.monotonic() - began > 0.4


def newest_in_run(folder: Path) -> int:
    return max([int(name[5:]) for name in in_run(folder)], default=0)


def test_no_more_is_ever_lost_with_the_node_than_the_policy_allows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path, every=milepost.Every(steps=3, durable=True), drain_bandwidth=8 * SIZE / 0.6) as run:
        for number in range(1, 14):
            step(run, number)
            assert run.progress.step - newest_in_run(tmp_path) < 3, "one step more may be done before the next look"
    assert "until step 3 was durable: training may not get further ahead" in capsys.readouterr().err


def test_a_signal_while_training_is_held_back(tmp_path: Path) -> None:
    def kill_when_it_waits() -> None:
        while not on_its_way(tmp_path):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    run = open_run(tmp_path, every=milepost.Every(steps=1, durable=True), drain_bandwidth=1)
    thread = threading.Thread(target=kill_when_it_waits)
    thread.start()
    with pytest.raises(Stopped), run:
        step(run, 1)
    thread.join()
    assert run.progress.step == 1
    assert in_run(tmp_path) == ["step-00000001"]


def test_what_was_left_on_the_node_is_not_durable_yet(tmp_path: Path) -> None:
    left_on_node(tmp_path, 3)
    with open_run(tmp_path, every=milepost.Every(steps=2, durable=True), drain_bandwidth=8 * SIZE / 0.6) as run:
        assert in_run(tmp_path) == []
        step(run, 4)
        assert in_run(tmp_path)[0] == "step-00000003"


def test_a_save_that_fails_holds_nobody_back_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = FaultyStorage(LocalStorage(tmp_path / "run"), [fail(on("create", "*/step-*"), errno.EROFS)])
    monkeypatch.setattr(checkpointer, "LocalStorage", lambda folder: full)
    run = milepost.Checkpointer(tmp_path / "run", w=np.zeros(1), every=milepost.Every(steps=1, durable=True))
    with pytest.warns(MilepostWarning, match="training goes on"):
        step(run, 3)
    assert run.progress.step == 3
    with pytest.raises(milepost.errors.SaveFailedError):
        run.close()


def test_being_held_back_is_not_what_a_save_takes(tmp_path: Path) -> None:
    """Neither its own nor that of the one before it: at the end of the job nothing is held back."""
    with open_run(tmp_path, drain_bandwidth=SLOW) as run:
        step(run, 1)
        first = run.save()
        while not on_its_way(tmp_path):
            time.sleep(0.01)
        step(run, 2)
        second = run.save()
        assert first is not None
        assert second is not None
        while second.on_node is None:
            time.sleep(0.01)
        time.sleep(0.1)
        run._session.saver.hurry()
        second.result()
        elapsed = time.perf_counter() - second.asked
        drain = run._session.saver._drain
        assert drain is not None
        assert first.held_back == drain._pace.slept >= second.held_back > 0
        assert second.seconds is not None
        assert second.seconds <= elapsed - second.held_back


def test_the_disk_of_the_node_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = FaultyStorage(LocalStorage(tmp_path / "node"), [fail(on("create", "*/step-*"), errno.EROFS)])
    monkeypatch.setattr(opening, "node_storage", lambda folder, note: full)
    with open_run(tmp_path) as run:
        step(run, 1)
        pending = run.save()
        assert pending is not None
        assert pending.result().step == 1
        assert pending.on_node is None
    assert in_run(tmp_path) == ["step-00000001"]
    assert "step 1 goes straight to the run directory" in capsys.readouterr().err


def test_the_run_directory_fails_and_recovers(tmp_path: Path) -> None:
    """A save that cannot be brought is told of; the next one is tried."""
    with open_run(tmp_path) as run:
        step(run, 1)
        (tmp_path / "run/step-00000001").mkdir()  # neither to be replaced nor to be exchanged with
        (tmp_path / "run/attempts/1.work").rename(tmp_path / "aside")
        (tmp_path / "run/attempts/1.work").write_text("in the way")
        pending = run.save()
        assert pending is not None
        with pytest.raises(milepost.errors.MilepostError):
            pending.result()
        (tmp_path / "run/attempts/1.work").unlink()
        (tmp_path / "aside").rename(tmp_path / "run/attempts/1.work")
        with pytest.warns(MilepostWarning, match="training goes on"):
            step(run, 2)
    assert "step-00000002" in in_run(tmp_path)


def test_a_variable_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NODE_DISK", raising=False)
    with milepost.Checkpointer(tmp_path / "run", w=np.zeros(1), stage_dir="$NODE_DISK", progress=False) as run:
        run.step(w=run["w"])
    assert "$NODE_DISK is not set here: saves go straight to the run directory" in capsys.readouterr().err
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "node"))
    with milepost.Checkpointer(tmp_path / "run", w=np.zeros(1), stage_dir="$NODE_DISK", progress=False) as run:
        run.step(w=run["w"])
        run.wait()
        assert staged(tmp_path) == []  # nothing was saved before the end
        run.save()
        run.wait()
        assert staged(tmp_path) == ["step-00000002"]


@pytest.mark.parametrize("named", ["$TMPDIR/mine", "${SLURM_TMPDIR}/mine"])
@pytest.mark.parametrize("given", ["TMPDIR", "SLURM_TMPDIR"])
def test_the_folder_that_the_site_gives_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, given: str
) -> None:
    for name in ("TMPDIR", "SLURM_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(given, str(tmp_path))
    with milepost.Checkpointer(tmp_path / "run", w=np.zeros(1), stage_dir=named, progress=False) as run:
        run.step(w=run["w"])
        pending = run.save()
        assert pending is not None
        pending.result()
        assert len(staged(tmp_path, "mine")) == 1


@pytest.mark.parametrize("bandwidth", [0, -1, "fast"])
def test_a_bandwidth_that_is_none(tmp_path: Path, bandwidth: Any) -> None:
    with pytest.raises(ScriptError, match="drain_bandwidth= cannot be that"):
        open_run(tmp_path, drain_bandwidth=bandwidth)


@pytest.mark.parametrize("folder", ["", 3, "a\0b"])
def test_a_folder_that_is_none(tmp_path: Path, folder: Any) -> None:
    with pytest.raises(ScriptError, match="stage_dir= cannot be that"):
        milepost.Checkpointer(tmp_path / "run", stage_dir=folder, w=np.zeros(1))
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_watched_leaves_nothing_on_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watcher:
        saves = True

        def open(self, asked: Any) -> Any:
            return asked

        def __getattr__(self, name: str) -> Any:
            return lambda *told: None

    monkeypatch.setattr(watching, "find", Watcher)
    with open_run(tmp_path) as run:
        step(run, 1)
        run.save()
        run.wait()
    assert in_run(tmp_path) == ["step-00000001"]
    assert not (tmp_path / "node").exists()


def test_too_little_room_is_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LocalStorage, "free_space", lambda self: 5_000_000)
    with open_run(tmp_path) as run:
        step(run, 1)
        run.save()
        err = capsys.readouterr().err
        assert err.count("there may be no room for the next save: it takes 0.01 GB, and 0.01 GB are free") == 2
        assert f"free in {tmp_path}/run;" in err
        run.wait()
        step(run, 2)
        run.save()
    assert "there may be no room" not in capsys.readouterr().err, "once"


def test_room_is_told_of_again_when_it_was_there_meanwhile() -> None:
    class Place:
        root, free = "/there", 100

        def free_space(self) -> int:
            return self.free

    told: list[str] = []
    place: Any = Place()
    room = Room(place, told.append)
    for free, nbytes in ((100, 50), (40, 50), (30, 50), (60, 50), (49, 50)):
        place.free = free
        room.check(nbytes)
    assert len(told) == 2
