"""The audit as a person uses it: points, kills, reports, test suites; what it refuses, and that it does no harm."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import SCRIPT

import milepost
from milepost.auditing import documents
from milepost.auditing.audit import audit
from milepost.auditing.report import Report, Verdict
from milepost.cli.main import main
from milepost.errors import AuditError, ScriptError


def points(report: Report) -> list[tuple[int, str, str]]:
    return [(row.at.step, row.at.phase, row.label) for row in report.rows if row.at is not None]


def test_the_points_it_chooses(job: Callable[..., Report]) -> None:
    report = job()
    assert (report.verdict, report.exit_code) == (Verdict.EXACT, 0)
    assert points(report) == [
        (1, "in-epoch", "first step"),
        (8, "in-epoch", "mid-epoch"),
        (10, "batches-done", "batches done"),
        (10, "epoch-ended", "epoch end"),
        (15, "in-epoch", "last step"),
    ]
    assert all(row.compared > 1 for row in report.rows)


def test_steps_that_are_named(job: Callable[..., Report]) -> None:
    report = job(at=[7, 2], steps=2)
    assert points(report) == [(2, "in-epoch", "mid-epoch"), (7, "in-epoch", "mid-epoch")]
    # Up to two steps after the last: 2 to 9 and one end of an epoch with two moments beside it; then 7 to 9.
    assert [row.compared for row in report.rows if row.at is not None] == [11, 3]


def test_every_step(job: Callable[..., Report]) -> None:
    assert [step for step, _, _ in points(job(script=SCRIPT.replace("epochs(3)", "epochs(1)"), every_step=True))] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_killed_for_real(job: Callable[..., Report]) -> None:
    report = job(at=[7], kill=True)
    assert (report.verdict, report.rows[-1].compared) == (Verdict.EXACT, 15)


def test_a_fault_and_how_it_is_told(job: Callable[..., Report], tmp_path: Path) -> None:
    report = job("count += 1; run['w'][0] += count", at=[7])
    assert (report.verdict, report.exit_code) == (Verdict.NOT_EXACT, 1)
    row = report.rows[-1]
    assert (row.where.step if row.where else None, row.aspect) == (8, "state")
    assert row.differences[0].path == "w"
    assert "max |difference|" in str(row.differences[0].how_much)
    assert "`count` is carried from step to step and is not in the state: keep it in run.vars" in str(report)
    shown = documents.markdown(report)
    assert "## ❌ milepost audit: NOT EXACT" in shown
    assert "> **Likely cause:** `count` is carried" in shown
    assert "keep it in run.vars" in shown
    page = documents.html(report)
    assert "<h1 class=not-exact>milepost audit: NOT EXACT</h1>" in page
    assert "<b>Likely cause:</b> <code>count</code> is carried" in page
    assert "max |difference|" in page


def test_it_does_no_harm(job: Callable[..., Report], tmp_path: Path) -> None:
    """The run directory of the person is neither read nor written, even if it is nonsense."""
    run = tmp_path / "runs/job"
    run.mkdir(parents=True)
    (run / "milepost.json").write_text("nonsense")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    report = job()
    assert report.verdict is Verdict.EXACT
    assert set(tmp_path.rglob("*")) - before.keys() == {tmp_path / "train.py"}
    assert (run / "milepost.json").read_text() == "nonsense"
    assert report.files == ()


def test_a_child_of_the_command_is_followed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(step="pass"))
    (tmp_path / "job.sh").write_text(f"cd {tmp_path}\n{sys.executable} train.py\n")
    assert audit(["sh", "job.sh"], cwd=tmp_path, at=[7]).verdict is Verdict.EXACT


@pytest.mark.parametrize(
    ("step", "options", "error", "words"),
    [
        ("raise ZeroDivisionError", {}, AuditError, "the script fails by itself"),
        ("pass", {"at": [99]}, ScriptError, "there is no step 99 to resume from"),
        ("pass", {"keep": Path(__file__).parent}, ScriptError, "scratch cannot be made"),
        ("pass", {"steps": 0}, ScriptError, "steps= is how many to compare"),
    ],
)
def test_what_cannot_be_answered(
    job: Callable[..., Report], step: str, options: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        job(step, **options)


def test_a_script_without_milepost(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('hello')")
    with pytest.raises(AuditError, match="no run that can be observed") as caught:
        audit([sys.executable, "train.py"], cwd=tmp_path)
    assert caught.value.found == "hello"
    with pytest.raises(AuditError, match="cannot be started"):
        audit(["/no/such/program"], cwd=tmp_path)
    with pytest.raises(ScriptError, match="no command"):
        audit([], cwd=tmp_path)


def test_a_batch_that_cannot_be_looked_into_is_never_called_exact(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        SCRIPT.format(step="pass").replace("np.arange(15.0).reshape(5, 3)", "[iter([i]) for i in range(5)]")
        .replace("batch.sum()", "1.0").replace("+ batch", "+ 1")
    )  # fmt: skip
    report = audit([sys.executable, "train.py"], cwd=tmp_path, at=[7])
    assert (report.verdict, report.exit_code) == (Verdict.INCOMPLETE, 3)
    assert report.unseen == ("a batch of batches: list_iterator cannot be looked into",)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(step="pass"))
    monkeypatch.chdir(tmp_path)
    assert main(["audit", "--at", "7", "--json", "--report", "a.html", "--", sys.executable, "train.py"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "exact"
    assert [one["at"]["step"] for one in told["comparisons"] if one["at"]] == [7]
    assert Path("a.html").read_text().startswith("<!doctype html>")
    assert main(["audit", "--report", "a.txt", "--", "x"]) == 2
    assert main(["audit", "--report", "no/a.md", "--", "x"]) == 2
    assert main(["audit"]) == 2


def make_run() -> None:
    rng = np.random.default_rng(0)
    with milepost.Checkpointer("anywhere", w=np.zeros(2), rng=rng, progress=False) as run:
        for _ in run.steps(6):
            run.step(w=run["w"] + rng.random(2))


def make_faulty_run() -> None:
    rng = np.random.default_rng(0)
    with milepost.Checkpointer("anywhere", w=np.zeros(2), progress=False) as run:
        for _ in run.steps(6):
            run.step(w=run["w"] + rng.random(2))


def test_in_a_test_suite(assert_resumes_exactly: Callable[..., Report]) -> None:
    assert assert_resumes_exactly(make_run, at=[2]).verdict is Verdict.EXACT
    with pytest.raises(pytest.fail.Exception, match="the random generator `rng` of make_faulty_run"):
        assert_resumes_exactly(make_faulty_run, at=[3])
    with pytest.raises(ScriptError, match="only a function at the top of a file"):
        assert_resumes_exactly(lambda: None)


def test_the_environment_is_only_for_the_processes(job: Callable[..., Report]) -> None:
    job(at=[7])
    assert "MILEPOST_AUDIT" not in os.environ
