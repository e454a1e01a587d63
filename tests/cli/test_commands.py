"""What each command answers, for people and as JSON."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milepost.folder.run import RunFolder

Make = Callable[..., RunFolder]


def flip(file: Path, at: int) -> None:
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


# -- ls ---------------------------------------------------------------------------------------------------------------
def test_ls_of_a_folder(cli: Any, make_run: Make, branched: RunFolder, tmp_path: Path) -> None:
    make_run(tmp_path / "deep" / "other")
    done = cli("ls", tmp_path)
    assert done.code == 0
    title, *rows = done.out.splitlines()
    assert title.split() == ["RUN", "STEP", "CHECKPOINTS", "ON", "DISK", "ATTEMPTS", "STATE"]
    assert [row.split()[:3] for row in rows] == [
        [f"{tmp_path}/deep/other", "300", "3"],
        [f"{tmp_path}/run", "350", "6"],
    ]
    assert rows[1].split()[-2:] == ["2", "stopped"]


def test_ls_of_a_run(cli: Any, branched: RunFolder) -> None:
    cli("tag", f"{branched.where}@step=100", "paper")
    done = cli("ls", branched.where)
    head, title, *rows = done.out.splitlines()
    assert head.startswith(f"{branched.where}: 6 checkpoints, ")
    assert title.split() == [
        "CHECKPOINT",
        "EPOCH",
        "BATCH",
        "SAVED",
        "AGE",
        "val_loss",
        "loss",
        "SIZE",
        "NEW",
        "STATE",
        "MARKS",
    ]
    marks = {row.split()[0]: row.rpartition("good  ")[2] for row in rows}
    assert marks["step-00000100"].strip() == "paper"
    assert marks["step-00000300"].strip() == "best"
    assert marks["step-00000300.superseded-1"].strip() == "superseded"
    assert marks["step-00000400"].strip() == "abandoned"
    assert "not good: NaN or infinity in model/head.weight  latest" in rows[4]
    assert "nan" in rows[4]


def test_ls_as_json(cli: Any, branched: RunFolder, make_run: Make, tmp_path: Path) -> None:
    (run,) = cli("ls", branched.where, "--json").json["runs"]
    assert list(run) == [
        "place", "run", "created", "best_by", "step", "count", "bytes_on_disk", "attempts", "state", "owner",
        "heartbeat_seconds", "on_node", "problem", "checkpoints",
    ]  # fmt: skip
    assert run["best_by"] == {"metric": "val_loss", "mode": "min"}
    assert (run["step"], run["count"], run["attempts"], run["state"]) == (350, 6, 2, "stopped")
    first, bad = run["checkpoints"][0], run["checkpoints"][4]
    assert list(first) == [
        "folder", "step", "attempt", "epoch", "batch", "phase", "time", "metrics", "metrics_left_out", "tensors",
        "bytes", "new_bytes", "good", "why_not_good", "branch", "latest", "best", "tags", "symptoms", "problem",
    ]  # fmt: skip
    assert (first["step"], first["metrics"], first["good"], first["branch"]) == (
        100,
        {"val_loss": 0.02},
        True,
        "current",
    )
    assert (bad["metrics"], bad["good"], bad["latest"]) == ({"loss": "nan"}, False, True)
    make_run(tmp_path / "other")
    (tmp_path / "other" / "milepost.json").write_text("{")
    damaged, summed_up = cli("ls", tmp_path, "--json").json["runs"]
    assert list(damaged) == list(summed_up) == list(run)
    assert (damaged["problem"]["kind"], damaged["step"]) == ("format", None)
    assert summed_up["checkpoints"] is None


def test_ls_says_that_a_run_is_alive(cli: Any, start_job: Callable[..., Any]) -> None:
    job = start_job()
    assert f"1 attempt, running: process {os.getpid()} on " in cli("ls", job.run.where).out


def test_ls_lists_what_cannot_be_read(cli: Any, make_run: Make, tmp_path: Path) -> None:
    make_run()
    (tmp_path / "run" / "step-00000200" / "manifest.json").unlink()
    (tmp_path / "run" / "tags" / "bad.json").write_text("{")
    done = cli("ls", tmp_path / "run")
    assert done.code == 0
    assert "unreadable: it has no manifest" in done.out
    assert "warning: a tag cannot be read" in done.err


def test_ls_where_nothing_is(cli: Any, tmp_path: Path) -> None:
    done = cli("ls", tmp_path)
    assert (done.code, done.out) == (0, "")
    assert "no runs below" in done.err
    assert cli("ls", tmp_path, "--json").json == {"runs": [], "others": []}


# -- show, cat --------------------------------------------------------------------------------------------------------
def test_show(cli: Any, start_job: Callable[..., Any]) -> None:
    job = start_job()
    by = {"milepost": "0.1.0", "git": {"commit": "abc", "dirty": True}, "command": ["python", "my train.py"]}
    frozen, plain = {"weight": np.ones((32, 64), np.float32)}, {"note": "as it was", "worst": float("inf")}
    head = [{"head.weight": np.full((4, 8), step, np.float32)} for step in (1, 2)]
    job.save(1, {"model": head[0], "frozen": frozen, "vars": plain}, loss=0.5, written_by=by)
    job.save(2, {"model": head[1], "frozen": frozen, "vars": plain}, loss=0.25, epoch=3, batch=7, written_by=by)
    done = cli("show", job.run.where)
    assert done.code == 0
    assert "step 2, epoch 3, batch 7, in-epoch" in done.out
    assert "loss 0.25" in done.out
    assert "git       commit abc, dirty True" in done.out
    assert "command   python 'my train.py'" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    assert ["weight", "float32", "32", "×", "64", "8.19", "kB", "shared"] in lines
    assert ["head.weight", "float32", "4", "×", "8", "128", "B"] in lines
    assert ["note", "str", "'as", "it", "was'"] in lines
    assert ["worst", "float", "inf"] in lines


def test_show_below_a_path(cli: Any, make_run: Make) -> None:
    where = make_run().where
    lines = cli("show", where, "vars/betas").out.splitlines()
    assert [line.split() for line in lines] == [
        ["PATH", "TYPE", "VALUE"], ["vars/betas", "tuple", "2", "values"], ["0", "float", "0.9"], ["1", "float", "0.999"],
    ]  # fmt: skip
    missing = cli("show", where, "vars/beta")
    assert missing.code == 4
    assert "there is nothing at 'vars/beta'" in missing.err


def test_show_as_json(cli: Any, make_run: Make) -> None:
    shown = cli("show", f"{make_run().where}@step=100", "--json").json
    assert list(shown) == ["where", "summary", "written_by", "files", "tensors", "values", "holds", "notes"]
    assert shown["summary"]["step"] == 100
    assert shown["files"] == {"model.safetensors": {"bytes": 8320, "plain": True, "names": 1}}
    assert shown["tensors"]["model/head.weight"] == {
        "dtype": "float32", "shape": [4, 8], "bytes": 128, "shared_bytes": 0, "tied_to": None, "shards": 1, "finite": True,
    }  # fmt: skip
    assert shown["values"]["vars/worst"] == {"kind": "float", "value": {"$float": "inf"}}


def test_cat(cli: Any, make_run: Make) -> None:
    where = make_run().where
    done = cli("cat", where, "model/head.weight", "vars/note", "vars/betas")
    assert done.out.splitlines()[:2] == [
        "model/head.weight  float32  4 × 8",
        "[[300. 300. 300. 300. 300. 300. 300. 300.]",
    ]
    assert '"as it was"' in done.out
    assert cli("cat", where, "vars/step").out == "300\n"
    assert "..." in cli("cat", where, "model/frozen.weight").out
    every = cli("cat", where, "model/frozen.weight", "--all").out
    assert "..." not in every
    assert every.count(".") > 2048


def test_cat_as_json(cli: Any, make_run: Make) -> None:
    where = make_run().where
    found = cli("cat", where, "model/head.weight", "model/frozen.weight", "vars/step", "--json").json["values"]
    assert found[0] == {
        "path": "model/head.weight", "kind": "tensor", "dtype": "float32", "shape": [4, 8], "value": [[300.0] * 8] * 4,
    }  # fmt: skip
    assert found[1]["value"] is None
    assert found[2] == {"path": "vars/step", "kind": "int", "dtype": None, "shape": None, "value": 300}
    (whole,) = cli("cat", where, "model/frozen.weight", "--json", "--all").json["values"]
    assert np.array_equal(whole["value"], np.arange(2048).reshape(32, 64))


def test_cat_to_a_file(cli: Any, make_run: Make, tmp_path: Path) -> None:
    where, file = make_run().where, tmp_path / "head.npy"
    assert cli("cat", where, "model/head.weight", "--npy", file) == (0, "", "")
    assert np.array_equal(np.load(file), np.full((4, 8), 300, np.float32))
    again = cli("cat", where, "model/frozen.weight", "--npy", file)
    assert again.code == 2
    assert "exists already" in again.err
    assert np.load(file).shape == (4, 8)
    assert cli("cat", where, "vars/step", "--npy", tmp_path / "step.npy").code == 2
    assert cli("cat", where, "vars/step", "model/head.weight", "--npy", tmp_path / "two.npy").code == 2
    assert cli("cat", where, "model/head.weight", "--npy", tmp_path / "no" / "head.npy").code == 7


def test_cat_checks_what_it_prints(cli: Any, make_run: Make, tmp_path: Path) -> None:
    where = make_run(steps=(1,)).where
    flip(tmp_path / "run" / "step-00000001" / "model.safetensors", 4096)
    assert cli("cat", where, "model/frozen.weight").code == 0
    damaged = cli("cat", where, "model/head.weight")
    assert (damaged.code, damaged.out) == (5, "")
    assert "not what was saved" in damaged.err


# -- verify -----------------------------------------------------------------------------------------------------------
def test_verify_a_run(cli: Any, branched: RunFolder) -> None:
    done = cli("verify", branched.where)
    assert done.code == 0
    assert done.out.splitlines()[-1] == "6 checkpoints, 0 damaged"
    assert "not good: NaN or infinity in model/head.weight" in done.out


def test_verify_names_what_is_damaged(cli: Any, make_run: Make, tmp_path: Path) -> None:
    where = make_run().where
    flip(tmp_path / "run" / "step-00000200" / "model.safetensors", 4096)
    (tmp_path / "run" / "step-00000300" / "manifest.json").unlink()
    done = cli("verify", where)
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0].startswith("intact")
    assert lines[1:3] == [
        f"DAMAGED  {where}/step-00000200",
        "  model.safetensors: the bytes of 'head.weight' are not what was saved",
    ]
    assert "manifest.json: the checkpoint has no manifest" in done.out
    assert lines[-1] == "3 checkpoints, 2 damaged"
    assert cli("verify", f"{where}@step=100").code == 0
    assert cli("verify", f"{where}/step-00000100", f"{where}@step=200").code == 1
    assert cli("verify", f"{where}@step=200", "--quick").code == 0
    assert cli("verify", f"{where}@step=200", "--tensors", "model/frozen.weight").code == 0
    assert cli("verify", f"{where}@step=200", "--tensors", "model/head.weight").code == 1
    assert cli("verify", f"{where}@step=200", "--tensors", "model/none").code == 4
    assert cli("verify", where, "--quick", "--full").code == 2


def test_verify_as_json(cli: Any, make_run: Make, tmp_path: Path) -> None:
    where = make_run(steps=(1, 2)).where
    file = tmp_path / "run" / "step-00000002" / "model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    done = cli("verify", where, "--json")
    assert done.code == 1
    assert done.json["damaged"] == 1
    whole, cut = done.json["checkpoints"]
    assert list(whole) == ["where", "ok", "gone", "bytes", "why_not_good", "against", "unchecked", "findings"]
    assert (whole["ok"], cut["ok"]) == (True, False)
    assert whole["findings"] == [{"name": "model.safetensors", "bytes": 8320, "problem": None}]
    assert cut["findings"][0]["problem"] == {
        "kind": "damaged", "message": "the file is cut short or was changed", "where": str(file),
        "expected": "8320 bytes", "found": "8319 bytes",
    }  # fmt: skip


# -- tag, pin, prune --------------------------------------------------------------------------------------------------
def test_tags(cli: Any, make_run: Make) -> None:
    where = make_run().where
    assert cli("tag", where, "newest") == (0, "newest -> step-00000300\n", "")
    assert cli("tag", f"{where}/step-00000100", "first").out == "first -> step-00000100\n"
    moved = cli("tag", f"{where}@~1", "first")
    assert (moved.out, moved.err) == ("first -> step-00000200\n", "it was at step 100 before\n")
    assert [line.split() for line in cli("tag", where, "--list").out.splitlines()] == [
        ["TAG", "STEP", "CHECKPOINT"], ["first", "200", "step-00000200"], ["newest", "300", "step-00000300"],
    ]  # fmt: skip
    assert cli("show", f"{where}@first", "--json").json["summary"]["step"] == 200
    assert cli("tag", where, "first", "--delete").code == 0
    assert cli("tag", where, "--json").json == {
        "tags": [{"name": "newest", "attempt": 1, "step": 300, "folder": "step-00000300"}]
    }
    assert cli("tag", where, "first", "--delete").code == 4
    for wrong in (("latest",), ("../x",), ("~1",), ("a", "--list")):
        assert cli("tag", where, *wrong).code == 2
    assert cli("tag", where, "--delete").code == 2


def test_pins(cli: Any, make_run: Make, tmp_path: Path) -> None:
    where = make_run().where
    assert cli("pin", f"{where}@step=100", "--json").json == {"folder": "step-00000100", "step": 100, "pinned": True}
    assert "keep" in next(
        line for line in cli("prune", where, "--dry-run", "--last", "1").out.splitlines() if "100" in line
    )
    assert cli("pin", f"{where}@step=100", "--remove").code == 0
    assert cli("pin", f"{where}@step=100", "--remove").code == 4
    (tmp_path / "run" / "step-00000100" / "manifest.json").unlink()
    assert cli("pin", f"{where}@step=100").code == 5


def test_prune(cli: Any, branched: RunFolder, tmp_path: Path) -> None:
    before = sorted(os.listdir(tmp_path / "run"))
    dry = cli("prune", branched.where, "--dry-run", "--last", "1")
    assert dry.code == 0
    assert [line.split()[:2] for line in dry.out.splitlines()[1:-1]] == [
        ["remove", "step-00000100"], ["remove", "step-00000200"], ["remove", "step-00000300.superseded-1"],
        ["keep", "step-00000300"], ["keep", "step-00000350"], ["remove", "step-00000400"],
    ]  # fmt: skip
    assert dry.out.splitlines()[-1].startswith("2 to keep, 4 to remove: frees ")
    assert sorted(os.listdir(tmp_path / "run")) == before
    done = cli("prune", branched.where, "--last", "1", "--every-steps", "200", "--yes")
    assert done.out.splitlines()[-1] == "removed 3 checkpoints"
    assert [one.step for one in branched.checkpoints()] == [200, 300, 350]


def test_prune_by_another_metric(cli: Any, make_run: Make) -> None:
    where = make_run(steps=(1, 2, 3)).where  # loss falls
    assert (
        "keep    step-00000001  best loss" in cli("prune", where, "--last", "1", "--best", "loss:max", "--dry-run").out
    )
    assert cli("prune", where, "--last", "1", "--best", "oddness", "--dry-run").code == 2
    assert cli("prune", where, "--last", "0", "--dry-run").code == 2


def test_prune_as_json(cli: Any, make_run: Make) -> None:
    where = make_run(steps=(1, 2)).where
    told = cli("prune", where, "--last", "1", "--json", "--yes").json
    assert list(told) == ["dry_run", "freed_bytes", "decisions", "removed", "changed"]
    assert told["decisions"][0] == {
        "folder": "step-00000001",
        "step": 1,
        "keep": False,
        "reason": "older than the last 1",
    }
    assert (told["removed"], told["changed"]) == (["step-00000001"], [])
    assert cli("prune", where, "--json").code == 2


def test_prune_removes_nothing_unasked(process: Any, make_run: Make) -> None:
    run = make_run()
    done = process("prune", run.where, "--last", "1")
    assert done.code == 2
    assert "say --yes" in done.err
    assert len(run.checkpoints()) == 3


# -- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["show", "missing"], 4, "not-found"),
        (["show", "run@step=7"], 4, "not-found"),
        (["show", "run@best"], 2, "metric"),
        (["show", "run@"], 2, "reference"),
        (["show", "model.pt"], 6, "format"),
        (["ls", "model.pt"], 6, "format"),
        (["ls", "run/step-00000100"], 4, "not-found"),
        (["ls", "run@latest"], 4, "not-found"),
        (["cat", "run", "nothing"], 4, "not-found"),
        (["show", "damaged"], 5, "damaged"),
        (["verify", "missing"], 4, "not-found"),
        (["show"], 2, "usage"),
        (["show", "run", "--frobnicate"], 2, "usage"),
        (["prune", "run", "--last", "many"], 2, "usage"),
        (["shwo", "run"], 2, "usage"),
    ],
)
def test_errors_have_a_code_and_one_shape(
    cli: Any,
    make_run: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run()
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04")
    shutil.copytree(tmp_path / "run" / "step-00000100", tmp_path / "damaged")
    flip(tmp_path / "damaged" / "manifest.json", 900)
    plain = cli(*arguments)
    assert (plain.code, plain.out) == (code, "")
    assert "error: " in plain.err
    assert "Traceback" not in plain.err
    told = cli(*arguments, "--json")
    assert (told.code, told.err) == (code, "")
    assert list(told.json) == ["error"]
    assert told.json["error"]["kind"] == kind
    assert set(told.json["error"]) <= {"kind", "message", "where", "expected", "found", "next"}
    assert json.dumps(told.json["error"]["message"])[1:-1].split(",")[0] in json.dumps(plain.err)
