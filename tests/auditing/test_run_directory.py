"""Whose run directory a script finds, whatever way it takes there: never the person's, unless it is one that it only reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import SCRIPT

from milepost.auditing.report import Report, Verdict
from milepost.errors import AuditError
from milepost.slurm.doctor import examine

ASKS = """
import glob, json, os, shutil, subprocess, sys
import numpy as np

asked = {
    "there": os.path.exists("runs/job"), "listed": "job" in os.listdir("runs"), "globbed": glob.glob("runs/*/step-*"),
    "log": os.path.exists("runs/job/log.txt"),
}
import milepost
try:
    asked["opened"] = str(milepost.open("runs/job"))
except milepost.errors.NotFoundError:
    pass
command = [sys.executable, "-c", "import os; print(os.listdir('runs/job'))"]
asked["child"] = subprocess.run(command, capture_output=True, text=True).stdout
print(json.dumps(asked))
"""

KEEPS_FILES = """
import json, os
import numpy as np
import milepost

os.makedirs("runs/job/notes", exist_ok=True)
if not os.path.exists("runs/job/setting.json"):
    json.dump({"by": 2.0}, open("runs/job/setting.json", "w"))
with milepost.Checkpointer("runs/job", w=np.zeros(3), progress=False) as run:
    by = json.load(open("runs/job/setting.json"))["by"]
    for _ in run.steps(8):
        lines = open("runs/job/notes/log.txt").readlines()[: run.progress.step] if run.progress.step else []
        run.step(w=run["w"] * by + len(lines))
        with open("runs/job/notes/log.txt", "w") as file:
            file.writelines([*lines, "x\\n"])
    os.replace("runs/job/notes/log.txt", "runs/job/notes/all.txt")
    assert os.listdir("runs/job/notes") == ["all.txt"]
"""


@pytest.fixture
def there(tmp_path: Path) -> Callable[[str], dict[str, int]]:
    """Makes a run, by a script that is not audited; returns what tells whether one of its files was read or changed."""

    def make(name: str) -> dict[str, int]:
        script = tmp_path / "make.py"
        script.write_text(SCRIPT.replace("runs/job", f"runs/{name}").replace("{step}", "pass"))
        subprocess.run([sys.executable, script], cwd=tmp_path, check=True)
        (tmp_path / f"runs/{name}/log.txt").write_text("of the person")
        for path in (tmp_path / "runs" / name).rglob("*"):  # so that reading one changes the time of access
            if path.is_file() and not path.is_symlink():
                os.utime(path, ns=(0, path.stat().st_mtime_ns))
        return times(tmp_path / "runs" / name)

    return make


def times(run: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_atime_ns + path.stat().st_mtime_ns
        for path in sorted(run.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def outputs(scratch: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in scratch.glob("*/output.txt")}


def test_the_persons_run_is_never_read(
    job: Callable[..., Report], there: Callable[[str], dict[str, int]], tmp_path: Path
) -> None:
    """Nor listed: before milepost is imported, before the run is opened, in children."""
    before = there("job")
    scratch = tmp_path.with_name(f"{tmp_path.name}-scratch")
    report = job(script=ASKS + SCRIPT, at=[7], keep=scratch)
    assert (report.verdict, report.remarks) == (Verdict.EXACT, ())
    assert times(tmp_path / "runs/job") == before
    nothing = '{"there": false, "listed": false, "globbed": [], "log": false, "child": ""}'
    told = outputs(scratch)
    assert nothing in told["control"]
    assert nothing in told["straight"]
    assert '"there": true, "listed": true, "globbed": ["runs/job/step-' in told["resumed-1"]
    assert "step-00000007: " in told["resumed-1"]


def test_a_run_that_is_only_read_is_seen(
    job: Callable[..., Report], there: Callable[[str], dict[str, int]], tmp_path: Path
) -> None:
    """The script's own run stays hidden, though it is asked for before the other, without which the script fails."""
    before = there("job")
    there("first")
    asks = ASKS + "\nstart = milepost.open('runs/first')['w']\nopen('runs/first/used.txt', 'w').close()\n"
    report = job(script=asks + SCRIPT.replace("w=np.zeros(3)", "w=start"), at=[7])
    assert report.verdict is Verdict.EXACT
    assert times(tmp_path / "runs/job") == before
    assert not (tmp_path / "runs/first/used.txt").exists()
    report = job(script=asks + SCRIPT.replace("w=np.zeros(3)", "w=start"), at=[7], copy_cwd=True)
    assert report.verdict is Verdict.EXACT


def test_a_script_that_needs_its_own_run(job: Callable[..., Report], there: Callable[[str], dict[str, int]]) -> None:
    there("job")
    with pytest.raises(AuditError, match="reads its own run before it opens it, and fails where there is none"):
        job(script="import milepost\nmilepost.open('runs/job')\n" + SCRIPT)
    with pytest.raises(AuditError, match="the script fails by itself") as caught:
        job("raise OSError('of its own')", script="import os\nos.path.exists('runs/job')\n" + SCRIPT)
    assert caught.value.found == "OSError: of its own"


@pytest.mark.parametrize("run", ["none", "one"])
def test_other_files_in_the_run_directory(
    run: str, job: Callable[..., Report], there: Callable[[str], dict[str, int]], tmp_path: Path
) -> None:
    """They are what they were when the checkpoint was taken, and the person's are left alone."""
    before = there("job") if run == "one" else {}
    report = job(script=KEEPS_FILES, at=[3, 5])
    assert (report.verdict, report.files) == (Verdict.EXACT, ())
    assert times(tmp_path / "runs/job") == before
    assert (tmp_path / "runs").exists() == (run == "one")
    forgets = KEEPS_FILES.replace("[: run.progress.step]", "")
    assert "the script fails" not in str(job(script=forgets, at=[3]))


def test_a_configuration_that_lies_in_the_run_directory(
    job: Callable[..., Report], there: Callable[[str], dict[str, int]], tmp_path: Path
) -> None:
    reads = "import json\nby = json.load(open('runs/job/config.json'))['by']\n"
    config = tmp_path / "runs/job/config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"by": 3}')
    report = job(script=reads + SCRIPT, at=[7])  # no run is there yet
    assert (report.verdict, report.remarks) == (Verdict.EXACT, ())
    there("job")
    report = job(script=reads + SCRIPT, at=[7])
    assert report.verdict is Verdict.EXACT
    assert report.remarks == (f"the script needs {config}, which is in a run directory: every process reads yours",)


def test_a_script_that_begins_by_removing_its_run(
    job: Callable[..., Report], there: Callable[[str], dict[str, int]], tmp_path: Path
) -> None:
    before = there("job")
    for folder in ("runs/job", "runs"):
        report = job(script=f"import shutil\nshutil.rmtree('{folder}', ignore_errors=True)\n{SCRIPT}", at=[7])
        assert report.verdict is Verdict.NOT_EXACT
        assert times(tmp_path / "runs/job") == before


def test_programs_that_are_not_led_to_scratch_are_named(job: Callable[..., Report], tmp_path: Path) -> None:
    starts = "import os, subprocess\nsubprocess.run(['ls', 'runs/job'])\nos.system('ls -l runs/job/x; ls')\n"
    report = job(script=starts + SCRIPT, at=[7])
    assert report.verdict is Verdict.EXACT
    told = "the script starts ls with {}: a program that is no Python finds your run there, not scratch"
    assert report.remarks == (told.format("runs/job"), told.format("runs/job/x"))


def test_the_doctor_looks_at_scratch(there: Callable[[str], dict[str, int]], tmp_path: Path) -> None:
    before = there("job")
    told = tmp_path / "told.json"
    told.write_text(f'{{"runs": "{tmp_path}/scratch", "cwd": "{tmp_path}", "log": "{tmp_path}"}}')
    script = "import sys; from milepost.slurm.doctor import examine; print(len(examine('runs/job')))"
    environment = {**os.environ, "MILEPOST_AUDIT": str(told)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    assert times(tmp_path / "runs/job") == before
    assert examine(str(tmp_path / "runs/job"))
    assert times(tmp_path / "runs/job") != before
