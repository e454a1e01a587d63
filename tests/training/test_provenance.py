import getpass
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import milepost
from milepost.core.digest import digest
from milepost.training.provenance import differences, written_by

TELL = "import json; from milepost.training.provenance import written_by; print(json.dumps(written_by()))\n"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=me", "-c", "user.email=me@x", "-c", "commit.gpgsign=false"]
    found = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return found.stdout.strip()


def tell(script: Path, *arguments: str, cwd: Path | None = None, code: str = TELL, **environment: str) -> dict:
    """What a process of its own that runs `script` says of itself."""
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(code)
    return retell(script, *arguments, cwd=cwd, **environment)


def retell(script: Path, *arguments: str, cwd: Path | None = None, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_says_what_runs_and_where(tmp_path):
    script = tmp_path / "train.py"
    found = tell(script, "--lr", "0.1", "--hf-token=abc", cwd=tmp_path)
    assert found["milepost"] == milepost.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["user"] == getpass.getuser()
    assert found["cwd"] == str(tmp_path)
    assert found["arguments"] == ["--lr", "0.1", "--hf-token=***"]
    assert found["command"] == [sys.executable, str(script), "--lr", "0.1", "--hf-token=***"]
    assert found["script"] == {"path": str(script), "digest": digest(script.read_bytes())}
    assert {"host", "pid", "platform"} <= found.keys()


def test_only_frameworks_that_are_loaded_have_a_version_and_none_is_loaded_for_it(tmp_path):
    (tmp_path / "torch.py").write_text("class Version(str): pass\n__version__ = Version('9.8.7+cpu')\n")
    (tmp_path / "jax.py").write_text("raise SystemExit('imported')\n")
    found = tell(tmp_path / "train.py", code="import torch, numpy\n" + TELL)
    assert found["packages"]["torch"] == "9.8.7+cpu"
    assert found["packages"].keys() == {"numpy", "torch"}


def test_a_framework_loaded_after_the_first_call_is_found(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    assert "keras" not in written_by()["packages"]
    fake = type(sys)("keras")
    fake.__version__ = "3.1"
    monkeypatch.setitem(sys.modules, "keras", fake)
    assert written_by()["packages"]["keras"] == "3.1"


def test_the_environment_is_taken_by_name_and_masked(tmp_path):
    found = tell(
        tmp_path / "train.py",
        OMP_NUM_THREADS="2",
        SLURM_JOB_ID="77",
        SLURM_RESTART_COUNT="3",
        SLURM_JWT="abc",
        SLURM_JOB_NAME="x token=abc",
        AWS_SECRET_ACCESS_KEY="abc",
        TF_VAR_db="abc",
        MY_SETTING="abc",
    )
    environment = found["environment"]
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["SLURM_JWT"] == "***"
    assert environment["SLURM_JOB_NAME"] == "x token=***"
    assert not {"AWS_SECRET_ACCESS_KEY", "TF_VAR_db", "MY_SETTING", "PATH"} & environment.keys()
    assert found["slurm"] == {"job": "77", "restart": "3", "name": "x token=***"}
    assert "abc" not in json.dumps(found)


def test_the_git_commit_is_that_of_the_script_not_of_the_working_directory(tmp_path):
    repository, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    for folder in (repository, elsewhere):
        folder.mkdir()
        git(folder, "init", "-q")
        git(folder, "commit", "-q", "--allow-empty", "-m", folder.name)
    script = repository / "src" / "train.py"
    script.parent.mkdir()
    script.write_text(TELL)
    git(repository, "add", "src/train.py")
    git(repository, "commit", "-q", "-m", "script")
    commit = git(repository, "rev-parse", "HEAD")

    # A hook or an editor may have left these: they name the wrong repository.
    misleading = {"GIT_DIR": str(elsewhere / ".git"), "GIT_WORK_TREE": str(elsewhere)}
    assert retell(script, cwd=elsewhere, **misleading)["git"] == {"commit": commit, "dirty": False}
    (repository / "runs").mkdir()
    (repository / "runs" / "model.safetensors").write_text("not tracked")
    assert retell(script)["git"]["dirty"] is False
    script.write_text(TELL + "# changed\n")
    assert retell(script)["git"] == {"commit": commit, "dirty": True}
    assert not (repository / ".git" / "index.lock").exists()


@pytest.mark.parametrize("prepare", [lambda folder: None, lambda folder: git(folder, "init", "-q")])
def test_without_a_commit_there_is_none(tmp_path, prepare):
    prepare(tmp_path)
    assert "git" not in tell(tmp_path / "train.py", GIT_CEILING_DIRECTORIES=str(tmp_path.parent))


@pytest.mark.parametrize(
    "body", [None, "exit 1", "echo '# branch.oid 123'; exit 1", "printf '\\377\\n'", "exec sleep 30"]
)
def test_without_a_git_that_answers_there_is_no_commit(tmp_path, body):
    path = tmp_path / "bin"
    path.mkdir()
    if body is not None:
        (path / "git").write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{body}\n")
        (path / "git").chmod(0o755)
    code = "from milepost.training import provenance; provenance.GIT_SECONDS = 0.3\n" + TELL
    assert "git" not in tell(tmp_path / "train.py", code=code, PATH=str(path))


def test_git_is_asked_once_per_process(tmp_path):
    path = tmp_path / "bin"
    path.mkdir()
    (path / "git").write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho '# branch.oid 0123'\n")
    (path / "git").chmod(0o755)
    code = TELL.replace("; print", "; [written_by() for _ in range(5)]; print")
    found = tell(tmp_path / "train.py", code=code, PATH=f"{path}:{os.environ['PATH']}")
    assert found["git"] == {"commit": "0123", "dirty": False}
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_a_forked_process_speaks_for_itself(tmp_path):
    code = """
import json, os
from milepost.training.provenance import written_by
before = written_by()["pid"]
if child := os.fork():
    os._exit(os.waitpid(child, 0)[1])
print(json.dumps([before, os.getppid(), written_by()["pid"], os.getpid()]))
"""
    before, parent, now, child = tell(tmp_path / "train.py", code=code)
    assert before == parent
    assert now == child != parent


def test_what_has_no_script_says_so_by_leaving_it_out():
    done = subprocess.run([sys.executable, "-c", TELL, "password=abc"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert "script" not in found
    assert found["arguments"] == ["password=***"]


def test_arguments_and_folders_of_any_bytes_become_plain_text(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    script = tmp_path / "train.py"
    script.write_text(TELL)
    done = subprocess.run([sys.executable, script, b"--name=\xff\xfe"], cwd=folder, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert found["arguments"] == ["--name=\\udcff\\udcfe"]
    assert found["cwd"].endswith("caf\\udce9")


def test_a_folder_that_was_removed_is_no_obstacle(tmp_path):
    code = f"import os; os.mkdir('{tmp_path}/x'); os.chdir('{tmp_path}/x'); os.rmdir('{tmp_path}/x')\n"
    assert "cwd" not in tell(tmp_path / "train.py", code=code + TELL)


def test_many_arguments_are_cut_short(tmp_path):
    found = tell(tmp_path / "train.py", *map(str, range(2000)))
    assert found["arguments"][-2:] == ["499", "... and 1500 more"]


# -- differences -------------------------------------------------------------------------------------------------------

BEFORE = {
    "milepost": "0.1.0",
    "python": "3.11.7",
    "packages": {"numpy": "2.4.6", "torch": "2.12.0"},
    "arguments": ["--lr", "0.1", "--sizes", "1", "2", "--amp", "--out=a", "model.dim=64"],
    "script": {"path": "/w/train.py", "digest": "xxh3-128:1"},
    "git": {"commit": "a" * 40, "dirty": False},
    "pid": 1,
    "host": "node-1",
}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        ({"pid": 2, "host": "node-2", "cwd": "/elsewhere", "environment": {"A": "b"}}, []),
        ({"milepost": "0.2.0"}, ["milepost: 0.1.0 -> 0.2.0"]),
        ({"python": "3.12.1"}, ["python: 3.11.7 -> 3.12.1"]),
        ({"packages": {"numpy": "2.5.0", "torch": "2.13.0"}}, ["numpy: 2.4.6 -> 2.5.0", "torch: 2.12.0 -> 2.13.0"]),
        ({"packages": {"jax": "0.9"}}, []),
        ({"script": {"path": "/w/train.py", "digest": "xxh3-128:2"}}, ["script: /w/train.py has other contents"]),
        ({"script": {"path": "/w/b.py", "digest": "xxh3-128:2"}}, ["script: /w/train.py -> /w/b.py"]),
        ({"script": {"path": "/elsewhere/train.py", "digest": "xxh3-128:1"}}, []),
        ({"git": {"commit": "b" * 40, "dirty": True}}, ["git commit: aaaaaaaaaaaa -> bbbbbbbbbbbb"]),
        ({"git": {"commit": "a" * 40, "dirty": True}}, ["git: uncommitted changes, where there were none"]),
        ({"git": {}}, []),
        (
            {"arguments": ["--lr=0.2", "--sizes", "1", "3", "--out", "a", "--new", "model.dim=32"]},
            [
                "--lr: 0.1 -> 0.2", "--sizes: 1 2 -> 1 3", "--amp: given -> not given", "model.dim: 64 -> 32",
                "--new: not given -> given",
            ],
        ),
        ({"arguments": ["model.dim=64", "--out", "a", "--amp", "--sizes", "1", "2", "--lr", "0.1"]}, []),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_changed_is_said_in_a_line_each(change, lines):
    assert differences(BEFORE, BEFORE | change) == lines


def test_positional_and_negative_arguments_are_compared():
    assert differences({"arguments": ["a", "b"]}, {"arguments": ["a", "c"]}) == ["arguments: a b -> a c"]
    assert differences({"arguments": ["--bias", "-1"]}, {"arguments": ["--bias", "-.5"]}) == ["--bias: -1 -> -.5"]


def test_a_process_does_not_differ_from_itself():
    assert differences(json.loads(json.dumps(written_by())), written_by()) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional={name: JSON | st.just(value) for name, value in BEFORE.items()}))
def test_facts_of_any_form_can_be_compared(saved):
    for one, other in ((saved, BEFORE), (BEFORE, saved)):
        assert all(isinstance(line, str) for line in differences(one, other))
