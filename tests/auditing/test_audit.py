"""The audit as a person uses it: points, limits, kills, other runs, files, reports; what it refuses, and that it does no harm."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launcher import Launcher

import milepost
from milepost.auditing import documents, processes
from milepost.auditing.audit import audit
from milepost.auditing.report import Report, Verdict
from milepost.cli.main import main
from milepost.errors import AuditError, ScriptError

SCRIPT = """
import sys
import numpy as np
import milepost

rng, count = np.random.default_rng(3), 0
with milepost.Checkpointer("runs/job", w=np.zeros(3), rng=rng, every=milepost.Every(steps=3), progress=False) as run:
    for epoch in run.epochs(3):
        for batch in run.batches(np.arange(15.0).reshape(5, 3)):
            run.step(w=run["w"] + batch + rng.random(3), loss=batch.sum())
            {step}
        run.epoch_end(val_loss=float(run["w"].sum()))
"""


@pytest.fixture(name="job")
def _job(tmp_path: Path, launcher: Launcher) -> Callable[..., Report]:
    """Writes a script, with something more to do at every step, and audits it."""

    def run(step: str = "pass", *, script: str = SCRIPT, **options: Any) -> Report:
        (tmp_path / "train.py").write_text(script.replace("{step}", step))
        options = {"launch": launcher.launch, **options}
        return audit([sys.executable, "train.py"], cwd=tmp_path, **options)

    return run


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
    assert points(report) == [(2, "in-epoch", ""), (7, "in-epoch", "")]
    # Up to two steps after the last: 2 to 9 and one end of an epoch with two moments beside it; then 7 to 9.
    assert [row.compared for row in report.rows if row.at is not None] == [11, 3]


def test_every_step(job: Callable[..., Report]) -> None:
    assert [step for step, _, _ in points(job(every_step=True))] == list(range(1, 16))


def test_killed_for_real(job: Callable[..., Report]) -> None:
    report = job(at=[7], kill=True)
    assert (report.verdict, report.rows[-1].compared) == (Verdict.EXACT, 15)


PAIRS = """
import os
import numpy as np
import milepost

with milepost.Checkpointer("runs/job", w=np.zeros(3), progress=False) as run:
    noise = iter(run.batches(np.arange(99.0), name="noise"))
    for _ in run.epochs(2):
        for batch in run.batches(np.arange(6.0).reshape(2, 3)):
            for _ in range(2):
                run.step(w=run["w"] * 2 + batch + next(noise))
            {step}
"""


def test_a_save_that_has_to_wait_is_compared_from_where_it_was_taken(job: Callable[..., Report]) -> None:
    """The second batch of `noise` within a batch is a place that no position describes: the next one is taken, and said."""
    report = job(script=PAIRS, at=[1, 2, 5])
    waited = "the save for step {} waited until here: no checkpoint can be taken there"
    assert [(row.at.step, row.verdict, row.note) for row in report.rows if row.at] == [
        (2, "exact", waited.format("1 (epoch 0, batch 1)")),
        (6, "exact", waited.format("5 (epoch 1, batch 5)")),
    ]
    assert report.verdict is Verdict.EXACT


def test_exact_is_never_said_without_a_comparison(job: Callable[..., Report]) -> None:
    report = job("os._exit(0)", script=PAIRS, at=[1])
    assert (report.verdict, report.exit_code) == (Verdict.INCOMPLETE, 3)
    assert "no checkpoint can be taken there" in report.rows[1].note


def test_killing_teaches_nothing_where_no_process_is_like_another(job: Callable[..., Report]) -> None:
    report = job("run['w'][0] += __import__('os').getpid()", at=[7], kill=True)
    assert (report.verdict, report.rows[1].compared) == (Verdict.INCOMPLETE, 0)
    assert "two uninterrupted runs differ as well" in report.rows[1].note


def test_a_process_that_hangs_is_ended_and_not_called_exact(
    job: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SPARE", 2.0)
    report = job("run.resumed_from and run.progress.step > 8 and __import__('time').sleep(600)", at=[7])
    assert (report.verdict, report.exit_code) == (Verdict.INCOMPLETE, 3)
    assert re.search(
        r"the process was ended after \d+ s, at step 8 \(epoch 1, batch 3\); nothing differed", report.rows[1].note
    )


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


GATHERS = """
import torch
import milepost

torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer, batches_seen = torch.optim.SGD(model.parameters(), 0.1), 0
with milepost.Checkpointer("runs/job", model=model, optimizer=optimizer, progress=False) as run:
    for _ in run.epochs(2):
        for number, batch in enumerate(run.batches(torch.arange(36.0).reshape(12, 3)), run.progress.batch + 1):
            model(batch).square().sum().backward()
            {step}
            if number % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
            run.step()
"""


def test_gradients_that_are_gathered_are_compared(job: Callable[..., Report]) -> None:
    assert job(script=GATHERS, at=[2]).verdict is Verdict.EXACT
    row = job("batches_seen += 1; model.bias.grad.add_(batches_seen)", script=GATHERS, at=[2]).rows[1]
    assert (row.verdict, row.aspect, row.where.step if row.where else 0) == ("not exact", "gradients", 2)
    assert row.differences[0].path.startswith("gradients/optimizer/")
    assert "`batches_seen` is carried from step to step" in row.causes[0].text


TWO = """
import numpy as np
import milepost

a, b, c = (np.random.default_rng(seed) for seed in range(3))
with milepost.Checkpointer("runs/first", w=np.zeros(3), rng=a, progress=False) as first:
    with milepost.Checkpointer("runs/job", v=np.zeros(3), rng=b, progress=False) as run:
        for _ in first.steps(5):
            first.step(w=first["w"] + a.random(3))
            run.step(v=run["v"] + b.random(3) + first["w"] + {step})
with milepost.Checkpointer("runs/last", u=np.zeros(3), progress=False) as last:
    for _ in last.steps(2):
        last.step(u=last["u"] + run["v"])
"""


def test_several_runs_of_one_script(job: Callable[..., Report]) -> None:
    """Each goes on from where it was when one of them was saved, and each is compared."""
    report = job("0", script=TWO)
    assert report.verdict is Verdict.EXACT
    assert report.rows[1].at == (0, 1, 0, 0, "in-epoch", "")
    assert "the script opens 3 runs" in report.remarks[0]
    report = job("c.random(3)", script=TWO, at=[2])
    assert report.verdict is Verdict.NOT_EXACT
    assert "the random generator `c` is not in the state" in str(report)


def test_a_fault_and_how_it_is_told(job: Callable[..., Report], tmp_path: Path) -> None:
    report = job("count += 1; run['w'][0] += count", at=[7])
    assert (report.verdict, report.exit_code) == (Verdict.NOT_EXACT, 1)
    row = report.rows[-1]
    assert (row.where.step if row.where else None, row.aspect) == (8, "state")
    assert row.differences[0].path == "w"
    assert "max |difference|" in str(row.differences[0].how_much)
    assert "`count` is carried from step to step and is not in the state: keep it in run.vars" in str(report)
    shown = documents.markdown(report)
    assert "## milepost audit: NOT EXACT" in shown
    assert "keep it in run.vars" in shown
    page = documents.html(report)
    assert "<h1>milepost audit: NOT EXACT</h1>" in page
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


def test_whoever_names_the_run_means_the_one_in_scratch(job: Callable[..., Report], tmp_path: Path) -> None:
    """In Python, before the run is opened there too, and in commands that the script starts."""
    run = tmp_path / "runs/job"
    run.mkdir(parents=True)
    (run / "milepost.json").write_text("nonsense")
    (tmp_path / "link").symlink_to("runs")
    early = """
import subprocess, sys, milepost
try:
    print("found", milepost.open("link/job"))
except milepost.errors.MilepostError:
    pass
"""
    command = "subprocess.run([sys.executable, '-m', 'milepost', 'ls', 'runs/job'], check=True)"
    late = f"run.progress.step == 8 and not run.resumed_from and {command}"
    report = job(late, script=early + SCRIPT + "\nprint(milepost.open('runs/job@best')['w'])", at=[7])
    assert report.verdict is Verdict.EXACT
    assert report.remarks == (
        "the script reads a checkpoint of its own run, after step 15 (the end): what follows was not compared",
    )
    assert (run / "milepost.json").read_text() == "nonsense"
    assert len(list(run.iterdir())) == 1


def test_a_save_that_the_script_asks_for(job: Callable[..., Report]) -> None:
    assert job("assert run.save().done() in (True, False)", at=[7]).rows[1].compared == 15
    report = job("run.progress.step == 9 and run.save().result()", at=[7])
    assert report.verdict is Verdict.EXACT
    assert "after step 8 (epoch 1, batch 3): what follows was not compared" in report.remarks[0]


def test_the_job_around_it_is_not_requeued(job: Callable[..., Report], tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    end = 'case "$*" in *EndTime*) echo $(($(date +%s) + 86400)) 1-00:00:00;; *) echo RUNNING None;; esac'
    for name, answer in ("scontrol", ""), ("squeue", end):
        (programs / name).write_text(f"#!/bin/sh\necho {name} $* >> {tmp_path}/asked\n{answer}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    with pytest.raises(AuditError, match="exit code 75"):
        job(
            "run.progress.step == 12 and os.kill(os.getpid(), 12)",
            script="import os" + SCRIPT,
            environment={**os.environ, "PATH": path, "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0"},
        )
    asked = tmp_path / "asked"
    assert not asked.exists() or "requeue" not in asked.read_text()


def test_files_that_the_script_writes_are_told_or_kept_apart(job: Callable[..., Report], tmp_path: Path) -> None:
    write = "open('log.txt', 'a').write('x')"
    elsewhere = tmp_path.with_name(f"{tmp_path.name}.csv")
    assert job(f"{write}; open({str(elsewhere)!r}, 'w').close()", at=[7]).files == ("log.txt", str(elsewhere))
    (tmp_path / "log.txt").unlink()
    assert (
        job(
            f"{write}; open('gone', 'w').close(); os.remove('gone')", script="import os" + SCRIPT, at=[7], copy_cwd=True
        ).files
        == ()
    )
    assert not (tmp_path / "log.txt").exists()


def test_saving_that_disturbs(job: Callable[..., Report]) -> None:
    report = job("run['w'][1] += len(__import__('glob').glob(run.directory + '/step-*'))", at=[7])
    assert report.verdict is Verdict.NOT_EXACT
    assert "saving itself changes what is computed" in report.rows[0].causes[0].text


def test_a_child_of_the_command_is_followed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(step="pass"))
    (tmp_path / "job.sh").write_text(f"cd {tmp_path}\n{sys.executable} train.py\n")
    assert audit(["sh", "job.sh"], cwd=tmp_path, at=[7]).verdict is Verdict.EXACT


def test_an_end_before_the_script_has_ended(job: Callable[..., Report]) -> None:
    report = job("__import__('time').sleep(0.15)", seconds=1.0)
    assert report.verdict is Verdict.EXACT
    assert points(report)[-1][0] < 15


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
    assert report.unseen == ("batch of batches: . (list_iterator)",)


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


SPLITS = """
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
import milepost

class Numbers(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        yield from range(info.id, 12, info.num_workers) if info else range(12)

loader = DataLoader(Numbers(), 2)
with milepost.Checkpointer("runs/job", w=torch.zeros(2), progress=False) as run:
    for _ in run.epochs(1):
        for batch, other in zip(run.batches(loader, replay=True), run.batches(np.arange(9.0), name="beside")):
            run.step(w=run["w"] * 2 + batch + other)
"""


def test_other_numbers_of_workers(job: Callable[..., Report]) -> None:
    script = """
import torch
from torch.utils.data import DataLoader, TensorDataset
import milepost

torch.manual_seed(0)
loader = DataLoader(TensorDataset(torch.arange(12.0)), 4, shuffle=True)
with milepost.Checkpointer("runs/job", w=torch.zeros(4), progress=False) as run:
    for _ in run.epochs(2):
        for (batch,) in run.batches(loader):
            run.step(w=run["w"] * 2 + batch)
"""
    report = job(script=script, at=[2], workers=2)
    row = report.rows[-1]
    assert (row.name, row.verdict, row.compared) == ("with 2 workers in every loader", "exact", 13)
    assert report.verdict is Verdict.EXACT


def test_workers_that_there_are_none_of(job: Callable[..., Report]) -> None:
    report = job(at=[7], workers=2)
    row = report.rows[-1]
    assert (row.verdict, row.compared, report.verdict) == ("left out", 0, "exact")
    assert "no loop of milepost reads a DataLoader" in row.note


def test_data_that_depends_on_the_number_of_workers(job: Callable[..., Report]) -> None:
    report = job(script=SPLITS, at=[2], workers=3)
    row = report.rows[-1]
    assert (row.verdict, row.aspect) == ("not exact", "batches")
    assert "depends on the number of workers" in row.causes[0].text
    assert "beside read no DataLoader" in report.remarks[0]
