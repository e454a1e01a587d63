"""Scripts of many kinds: several runs, loops within loops, gathered gradients, workers, their own run read, files, a Slurm job."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import SCRIPT

from milepost.auditing.report import Report, Verdict
from milepost.errors import AuditError

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
    end = 'case "$*" in *EndTime*) echo 12 1-00:00:00 $(($(date +%s) + 86400));; *) echo 12 RUNNING 1 1 None;; esac'
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
