"""Scripts without milepost: what a person's command may be, what cannot be answered, and that nothing of theirs is touched."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from launcher import Launcher

from milepost.auditing.audit import audit
from milepost.auditing.report import Report, Verdict
from milepost.cli.main import main
from milepost.errors import AuditError, ScriptError

GALLERY = Path(__file__).parent / "gallery"
SCRIPT = """
import sys
import torch
{first}
torch.manual_seed(0)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
start = 0
if len(sys.argv) > 1:
    saved = torch.load(sys.argv[1])
    model.load_state_dict(saved["model"])
    start = saved["step"]
for step in range(start, 6):
    {step}
    {save}
"""
STEP = "optimizer.zero_grad(); model(torch.tensor([[1.0, float(step)]])).sum().backward(); optimizer.step()"
SAVE = "torch.save({'model': model.state_dict(), 'step': step + 1}, 'last.pt')"
Job = Callable[..., Report]


@pytest.fixture(name="job")
def _job(launcher: Launcher, tmp_path: Path) -> Job:
    """Writes a small script and audits it."""

    def run(first: str = "", step: str = STEP, save: str = SAVE, **options: Any) -> Report:
        script = tmp_path / "train.py"
        script.write_text(SCRIPT.format(first=first, step=step, save=save))

        def play(command: Sequence[str], env: Mapping[str, str], cwd: Path, output: Path, seconds: float | None) -> int:
            hashed = {
                name: value for name, value in env.items() if name != "PYTHONHASHSEED"
            }  # needs no new interpreter
            return launcher.launch(command, hashed, cwd, output, seconds)

        options = {"saver": "torch", "resume_command": f"{sys.executable} train.py {{checkpoint}}", **options}
        return audit([sys.executable, "train.py"], cwd=tmp_path, environment=os.environ, launch=play, **options)

    return run


def points(report: Report) -> list[tuple[int, str, int]]:
    return [(row.at.step, row.label, row.compared) for row in report.rows if row.at is not None]


def test_which_checkpoints_it_resumes_from(job: Job) -> None:
    # The moments before the steps that are left, and the end.
    report = job("from safetensors.torch import save_model", save=f"{SAVE}; save_model(model, 'm.safetensors')")
    assert report.verdict is Verdict.EXACT, str(report)
    assert report.files == ()
    assert report.remarks[0].startswith("safetensors.torch.save_model saves too")
    assert points(report) == [(1, "first", 6), (5, "last", 2)]
    assert points(job(at=[2], steps=2)) == [(2, "mid-epoch", 3)]
    assert points(job(every_step=True))[2:4] == [(3, "mid-epoch", 4), (4, "mid-epoch", 3)]


def test_what_the_script_says_of_a_checkpoint_that_is_there_is_not_heeded(launcher: Launcher, tmp_path: Path) -> None:
    """A script that goes on by itself begins anew in each process; the checkpoints of the person are as they were."""
    script = GALLERY / "clean" / "auto_resume.py"
    command = [sys.executable, str(script)]
    assert launcher.launch(command, os.environ, tmp_path, tmp_path / "output.txt", 60) == 0
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in before} == {"output.txt", "step-12.pt", "step-15.pt"}
    report = audit(
        command, saver="torch", resume_command=" ".join(command) + " {itself}", at=[8], cwd=tmp_path, environment=os.environ,
        launch=lambda *arguments: launcher.launch(*arguments),
    )  # fmt: skip
    assert (report.verdict, points(report)) == (Verdict.EXACT, [(9, "mid-epoch", 8)])
    assert report.remarks == ("the script goes on from run/step-15.pt if that is there: it was hidden",)
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()
    }


def test_files_beside_checkpoints(job: Job, tmp_path: Path) -> None:
    """A file that is open when it is saved to, and others of the script, which are told."""
    (tmp_path / "model.bin").write_bytes(b"mine")
    save = "with open('model.bin', 'wb') as file: torch.save({'model': model.state_dict(), 'step': step + 1}, file)"
    first = "import os; os.makedirs('logs', exist_ok=True); open('logs/log.txt', 'a').write('x')"
    report = job(first, save=save, at=[3])
    assert report.verdict is Verdict.EXACT, str(report)
    assert report.files == ("logs/log.txt",)
    (tmp_path / "logs/log.txt").unlink()
    assert job(first, save=save, at=[3], copy_cwd=True).verdict is Verdict.EXACT
    assert not (tmp_path / "logs/log.txt").exists()
    assert (tmp_path / "model.bin").read_bytes() == b"mine"


def test_a_script_that_goes_on_training_its_own_file(job: Job, tmp_path: Path) -> None:
    """What it cannot do without, it is given, as it was at first."""
    torch.save({"weight": torch.ones(1, 2), "bias": torch.ones(1)}, tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    report = job(
        step="if step == 0: model.load_state_dict(torch.load('last.pt'))\n    " + STEP,
        save=SAVE.replace("last", "new") + "; torch.save(model.state_dict(), 'last.pt')",
        at=[3],
    )
    assert report.verdict is Verdict.EXACT, str(report)
    assert report.remarks == ("the script needs last.pt: every process began with a copy",)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_another_script_that_resumes(job: Job, tmp_path: Path) -> None:
    """With other names for the same things."""
    text = SCRIPT.format(first="", step=STEP, save=SAVE)
    (tmp_path / "again.py").write_text(
        text.replace("optimizer", "descent").replace("model", "net").replace('"net"', '"model"')
    )
    report = job(resume_command=f"{sys.executable} again.py {{checkpoint}}", at=[3])
    assert report.verdict is Verdict.EXACT, str(report)


def test_steps_that_compute_their_gradients_themselves(job: Job) -> None:
    first = """
def closure():
    optimizer.zero_grad()
    loss = model(torch.ones(1, 2)).pow(2).sum()
    loss.backward()
    return loss
"""
    report = job(first, "optimizer.step(closure)", at=[3])
    assert report.verdict is Verdict.EXACT, str(report)


RANKS = """
import os, sys
import torch
ready, done = os.pipe()
rank = 0 if os.fork() else 1
os.environ["RANK"] = str(rank)
torch.set_num_threads(1)
torch.manual_seed(0)
model, noise = torch.nn.Linear(2, 1), torch.Generator()
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
start = 0
if len(sys.argv) > 1:
    saved = torch.load(sys.argv[1])
    model.load_state_dict(saved["model"])
    start = saved["step"]
os.write(done, b".") if rank else os.read(ready, 1)  # nothing is saved before both have read
for step in range(start, 4):
    optimizer.zero_grad()
    (model(torch.ones(1, 2)) * (torch.rand(1, generator=noise) if rank else 1.0)).sum().backward()
    optimizer.step()
    if rank == 0:
        torch.save({"model": model.state_dict(), "step": step + 1}, "last.pt")
if rank == 0:
    os.wait()
"""


def test_every_rank_is_compared(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(RANKS)
    command = [sys.executable, "train.py"]
    report = audit(
        command, saver="torch", resume_command=f"{shlex.join(command)} {{checkpoint}}", at=[2], cwd=tmp_path,
        environment=os.environ, launch=lambda *arguments: launcher.launch(*arguments),
    )  # fmt: skip
    row = report.rows[-1]
    assert (report.verdict, row.name, row.aspect) == (Verdict.NOT_EXACT, "resumed after step 2, rank 1", "gradients")
    assert "the generator `noise` is not put back" in row.causes[0].text


def test_a_resume_that_reads_nothing(job: Job) -> None:
    report = job(resume_command=f"{sys.executable} train.py", at=[3])
    assert report.verdict is Verdict.NOT_EXACT
    assert "reads no checkpoint with torch.load" in report.causes[0].text


def test_a_resume_that_fails(job: Job) -> None:
    report = job(save="torch.save({'model': model.state_dict()}, 'last.pt')", at=[3])
    assert report.verdict is Verdict.NOT_EXACT
    assert "the script fails when it is started again: KeyError: 'step'" in report.causes[0].text


def test_scripts_that_are_not_the_same_twice(job: Job) -> None:
    report = job("import time", "model.bias.data += time.time() % 1; " + STEP, at=[3])
    assert report.verdict is Verdict.NOT_EXACT
    assert "two uninterrupted runs differ as well, from step 1 on (state)" in report.causes[0].text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"save": "pass"}, "torch.save is never called"),
        ({"save": f"if step == 5: {SAVE}"}, "no step follows the checkpoint"),
        (
            {
                "first": "from safetensors.torch import save_file",
                "save": "save_file(model.state_dict(), 'm.safetensors')",
            },
            "what safetensors.torch.save_file saved",
        ),
    ],
    ids=["nothing", "at the end", "safetensors"],
)
def test_what_makes_it_incomplete(job: Job, tmp_path: Path, options: Any, words: str) -> None:
    report = job(**options)
    assert (report.verdict, report.exit_code) == (Verdict.INCOMPLETE, 3)
    assert any(words in text for text in (*report.unseen, *(row.note for row in report.rows)))
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step": "torch.compile(optimizer.step, backend='eager')()"}, "no step of a torch.optim optimizer was seen"),
        ({"first": "raise ZeroDivisionError"}, "the script fails by itself"),
        ({"first": "import milepost; milepost.Checkpointer('run', x=1)"}, "uses milepost: audit it without --saver"),
    ],
    ids=["compiled", "fails", "milepost"],
)
def test_what_cannot_be_answered(job: Job, tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises(AuditError) as caught:
        job(**options)
    assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_jax_without_milepost_is_declared_unsupported(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import jax\nprint(jax.numpy.zeros(1))")
    command = [sys.executable, "train.py"]
    with pytest.raises(AuditError, match="a JAX script keeps its state in values of its own"):
        audit(command, saver="torch", resume_command=" ".join(command), cwd=tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"saver": "lightning"}, "there is no saver 'lightning'"),
        ({"resume_command": "python train.py --resume last.pt"}, "{checkpoint} is missing in the resume command"),
        ({"resume_command": None}, "how the script is resumed has to be said"),
        ({"resume_command": "python 'train.py"}, "the resume command cannot be read"),
        ({"workers": 2}, "no workers and no space can be asked for"),
    ],
)
def test_what_a_person_may_get_wrong(job: Job, options: Any, words: str) -> None:
    with pytest.raises(ScriptError, match=words):
        job(**options)


def test_a_python_that_cannot_be_watched(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-c", "print(1)"]
    with pytest.raises(AuditError, match="no Python process of the command could be watched"):
        audit(command, saver="torch", resume_command=shlex.join(command), cwd=tmp_path)


def test_no_checkpoint_at_a_step(job: Job) -> None:
    with pytest.raises(ScriptError, match="nothing is saved at or after step 99"):
        job(at=[99])


def test_the_command_line_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--saver", "pickle", "--resume-command", "x {checkpoint}", "--", "x"]) == 2
    assert "expected: torch or keras" in capsys.readouterr().err
    assert main(["audit", "--resume-command", "x {checkpoint}", "--", "x"]) == 2


TRAINER = """
import sys
assert sys.of_the_person == 1  # their sitecustomize ran
import torch
from torch.utils.data import DataLoader

def main():
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    if len(sys.argv) > 1:
        model.load_state_dict(torch.load(sys.argv[1]))
    for epoch in range(2):
        for batch in DataLoader(torch.arange(8.0).reshape(4, 2), batch_size=2, num_workers=1):
            model(batch).sum().backward()
            optimizer.step()
        torch.save(model.state_dict(), f"epoch-{epoch}.pt")

if __name__ == "__main__":
    main()
"""


def test_real_interpreters_that_a_command_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell, a child, ``exec``, ``python -m``, workers, and a start-up module of the person's own."""
    for folder in ("start", "package"):
        (tmp_path / folder).mkdir()
    (tmp_path / "start/sitecustomize.py").write_text("import sys\nsys.of_the_person = 1\n")
    (tmp_path / "package/trainer.py").write_text(TRAINER)
    (tmp_path / "begin.py").write_text(
        "import os, sys\nos.execv(sys.executable, [sys.executable, '-m', 'package.trainer', *sys.argv[1:]])\n"
    )
    (tmp_path / "job.sh").write_text(f'{sys.executable} begin.py "$@"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["start", os.environ.get("PYTHONPATH", "")]))
    options = ["--saver", "torch", "--resume-command", "sh job.sh {checkpoint}", "--at", "2"]
    assert main(["audit", *options, "--json", "--report", "a.md", "--", "sh", "job.sh"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "not exact"
    row = told["comparisons"][1]
    assert (row["at"]["step"], row["where"]["step"], row["aspect"]) == (2, 3, "state")
    assert "the optimizer `optimizer` is not in the checkpoint" in row["causes"][0]["text"]
    assert "the optimizer `optimizer` is not in the checkpoint" in Path("a.md").read_text()
    assert not list(tmp_path.glob("*.pt"))


FILES = """
import glob, io, os, pathlib, shutil, sys, tempfile
from milepost.auditing.foreign.overlay import Overlay
from milepost.auditing.files.redirect import redirect

told = []
overlay = Overlay(sys.argv[1], [], [], sys.argv[1] + "-log", lambda what, one: told.append((what, one)))
redirect(overlay)
here = os.getcwd()

def write(path, text):  # as torch.save does
    with io.open(overlay.cover(path, beside=True), "w") as file:
        file.write(text)

write("kept.pt", "new")
assert open("kept.pt").read() == pathlib.Path("kept.pt").read_text() == "new"
assert os.path.exists("kept.pt") and os.path.getsize("kept.pt") == 3 and os.path.isfile(b"kept.pt")
assert sorted(os.listdir()) == sorted(one.name for one in pathlib.Path().iterdir()) == ["data", "kept.pt", "steps"]
os.replace("kept.pt", "final.pt")
shutil.copy2("final.pt", "copy.pt")
os.symlink("final.pt", "latest")
os.link("final.pt", "twin.pt")
assert open("latest").read() == open("copy.pt").read() == open("twin.pt").read() == "new"
assert os.readlink("latest") == "final.pt" and os.path.realpath("latest") == here + "/final.pt"
assert sorted(glob.glob("*.pt")) == ["copy.pt", "final.pt", "twin.pt"]
assert not os.path.exists("kept.pt")
os.remove("copy.pt")
assert sorted(one.name for one in os.scandir(".")) == ["data", "final.pt", "latest", "steps", "twin.pt"]
with tempfile.NamedTemporaryFile(dir=".", delete=False) as file:  # beside what was saved
    file.write(b"whole")
os.rename(file.name, "moved.json")
assert open("moved.json").read() == "whole"
assert open("data/input.bin").read() == "input"
for number in (1, 2):
    os.makedirs(f"steps/{number}.new")
    write(f"steps/{number}.new/model.pt", "m")
    pathlib.Path(f"steps/{number}.new/state.json").write_text("s")
    os.rename(f"steps/{number}.new", f"steps/{number}")
assert sorted(glob.glob("steps/*/*")) == [f"steps/{n}/{f}" for n in (1, 2) for f in ("model.pt", "state.json")]
shutil.rmtree("steps/1")
assert os.listdir("steps") == ["2"] and not os.path.exists("steps/1/model.pt")
assert [files for _, _, files in os.walk("steps")] == [[], ["model.pt", "state.json"]]
try:
    open("nowhere/model.pt", "wb")
except FileNotFoundError:
    pass
else:
    raise AssertionError
print(told)
"""


def test_a_script_sees_its_files_where_it_put_them(tmp_path: Path) -> None:
    for path, text in (("cwd/kept.pt", "old"), ("cwd/data/input.bin", "input"), ("cwd/steps/7/model.pt", "mine")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "files.py").write_text(FILES)
    done = subprocess.run(
        [sys.executable, tmp_path / "files.py", tmp_path / "mirror"],
        cwd=tmp_path / "cwd",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    left = {
        str(path.relative_to(tmp_path / "cwd")): path.read_text()
        for path in (tmp_path / "cwd").rglob("*")
        if path.is_file()
    }
    assert left == {"kept.pt": "old", "data/input.bin": "input", "steps/7/model.pt": "mine"}
