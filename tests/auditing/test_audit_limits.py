"""What an audit may take: time, processes, space."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import SCRIPT

from milepost.auditing import processes
from milepost.auditing.report import Report, Verdict
from milepost.errors import AuditError


def test_a_process_that_hangs_is_ended_and_not_called_exact(
    job: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SLOWER", 1.0)
    monkeypatch.setattr(processes, "SPARE", 5.0)
    report = job("run.resumed_from and run.progress.step > 8 and __import__('time').sleep(600)", at=[7])
    assert (report.verdict, report.exit_code) == (Verdict.INCOMPLETE, 3)
    assert re.search(r"the process was ended after \d+ s", report.rows[1].note)


def test_nothing_that_the_script_started_outlives_the_audit(job: Callable[..., Report], tmp_path: Path) -> None:
    start = "__import__('subprocess').Popen(['sleep', '600'], start_new_session=True)"
    job(f"open('pids', 'a').write(str({start}.pid) + ' ')", at=[7], steps=1, launch=processes.launch)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) > 10
    alive = [
        pid for pid in pids if Path(f"/proc/{pid}").exists() and "sleep" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    assert alive == []


def test_points_that_there_is_no_room_for(job: Callable[..., Report], tmp_path: Path) -> None:
    size = 24  # of w, the only tensor
    report = job(space=size * 6, keep=tmp_path.with_name("scratch"))
    assert [(row.at.step, row.verdict) for row in report.rows if row.at] == [
        (1, "left out"),
        (8, "exact"),
        (10, "left out"),
        (10, "exact"),
        (15, "left out"),
    ]
    assert report.verdict is Verdict.EXACT
    assert "room for 2 of 5 points" in report.rows[-1].note
    assert job(at=[3, 7], space=size * 5).verdict is Verdict.INCOMPLETE
    with pytest.raises(AuditError, match="no room"):
        job(space=size * 4)


def test_a_disk_that_fills_up_meanwhile(job: Callable[..., Report]) -> None:
    full = "import shutil, collections; shutil.disk_usage = lambda path: collections.namedtuple('Usage', 'free')(47)\n"
    report = job(script=full + SCRIPT, at=[7])
    assert report.verdict is Verdict.INCOMPLETE
    assert "are free where the scratch is, too little for a state of" in report.rows[1].note


def test_an_end_before_the_script_has_ended(job: Callable[..., Report]) -> None:
    report = job("__import__('time').sleep(0.15)", seconds=1.0)
    assert report.verdict is Verdict.EXACT
    last = report.rows[-1].at
    assert last is not None
    assert last.step < 15
