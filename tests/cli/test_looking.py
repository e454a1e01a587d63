"""`show`, `cat`, `stats`, `diff` and `ls` on files of any format: what a person sees, and what a script gets."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of torch with a model of many blocks, an optimizer and plain values."""
    blocks = {f"h.{block}.{part}": torch.full((4, 2), 0.5) for block in range(30) for part in ("w", "v", "u", "t")}
    blocks["head"] = torch.arange(6.0).reshape(2, 3)
    torch.save({"model": blocks, "optimizer": {"lr": 0.1}, "epoch": 3, "tags": ["a", "b"]}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


# -- show -------------------------------------------------------------------------------------------------------------
def test_show_says_what_it_is_good_for(cli: Any, file: Path) -> None:
    shown = cli("show", file)
    assert "  holds    a resumable state: weights, optimizer and step; no random state, no data position" in shown.out
    assert shown.out.count("\n") > 120  # all of it, where it is no terminal
    assert cli("show", file, "--json").json["holds"] == {
        "what": "state", "parts": ["weights", "optimizer", "step"], "lacks": ["random state", "data position"],
    }  # fmt: skip


@pytest.mark.parametrize("columns", [80, 200])
def test_show_in_a_terminal_is_short_and_fits(terminal: Any, file: Path, columns: int) -> None:
    started = terminal("show", file, columns=columns, NO_COLOR="1")
    assert started.end() == 0
    tree = started.shown.partition("PATH")[2].splitlines()[1:]
    assert tree[1].split() == ["h.{0…29}.w", "float32", "4", "×", "2", "960", "B", "30", "alike"]
    assert tree[-1] == "125 values in 9 lines; --all shows each, PATH what is below it"
    assert max(map(len, tree)) <= columns
    everything = terminal("show", file, "--all", columns=columns, NO_COLOR="1")
    everything.end()
    assert "h.29.w" in everything.shown


def test_show_parts(cli: Any, file: Path) -> None:
    assert [line.split()[0] for line in cli("show", file, "*.7.?", "epoch").out.splitlines()[1:]] == [
        "model/h.7.w", "model/h.7.v", "model/h.7.u", "model/h.7.t", "epoch",
    ]  # fmt: skip
    assert [line.split()[0] for line in cli("show", file, "--depth", "1").out.splitlines()[-4:]] == [
        "model", "optimizer", "epoch", "tags",
    ]  # fmt: skip
    missing = cli("show", file, "*.8.x")
    assert (missing.code, missing.out) == (4, "")
    assert "nothing fits '*.8.x'" in missing.err


# -- cat --------------------------------------------------------------------------------------------------------------
def test_cat_a_slice(cli: Any, file: Path) -> None:
    assert cli("cat", file, "model/head", "--slice", "1, ::2").out == "model/head  float32  2\n[3. 5.]\n"
    assert cli("cat", file, "model/head", "--slice=-1,1:", "--text").out == "4.0\n5.0\n"
    assert cli("cat", file, "model/head", "--slice", "..., 0", "--json").json["values"][0]["value"] == [0.0, 3.0]
    for wrong in ("5", "0, 0, 0", "::0", "x", "1;2"):
        assert cli("cat", file, "model/head", "--slice", wrong).code == 2


def test_cat_patterns_and_plain_values(cli: Any, file: Path) -> None:
    found = cli("cat", file, "tags/*", "model/h.0.?", "--json").json["values"]
    assert [value["path"] for value in found] == ["tags/0", "tags/1", *(f"model/h.0.{part}" for part in "wvut")]
    assert cli("cat", file, "tags/*").out == 'tags/0\n"a"\ntags/1\n"b"\n'


def test_cat_into_a_pipe(process: Any, file: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "milepost", "cat", str(file), "model/head", "--npy", "-", "--slice", "0"]
    done = subprocess.run(command, capture_output=True, check=True, env=os.environ)
    assert np.load(io.BytesIO(done.stdout)).tolist() == [0, 1, 2]


# -- stats ------------------------------------------------------------------------------------------------------------
def test_stats(cli: Any, file: Path) -> None:
    done = cli("stats", file, "model/head", "*.0.w")
    assert done.code == 0
    title, head, block = done.out.splitlines()
    assert title.split() == ["PATH", "TYPE", "SHAPE", "MIN", "MAX", "MEAN", "STD", "NORM", "ZEROS", "2^-1..2^3"]
    assert head.split()[:5] == ["model/head", "float32", "2", "×", "3"]
    assert head.split()[5:12] == ["0", "5", "2.5", "1.708", "7.416", "16.7", "%"]
    assert block.split()[-1] == "█"
    told = cli("stats", file, "--json").json
    assert told["finite"]
    assert told["tensors"]["model/head"]["log2"] == {"0": 1, "1": 2, "2": 2}
    assert told["layers"]["model/h.3"]["count"] == 32
    assert len(cli("stats", file, "--layers").out.splitlines()) == 1 + 31


def test_stats_of_one_tensor_draw_its_histogram(cli: Any, file: Path) -> None:
    shown = cli("stats", file, "model/head").out.splitlines()
    assert [line.split()[:2] for line in shown[5:]] == [["0", "1"], ["2^0", "1"], ["2^1", "2"], ["2^2", "2"]]
    shown = cli("stats", file, "model/head", "--bins", "5").out.splitlines()
    assert [line.split()[:2] for line in shown[5:]] == [["0", "1"], ["1", "1"], ["2", "1"], ["3", "1"], ["4", "2"]]


def test_stats_say_what_is_not_finite(cli: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(3), b=[np.nan, np.inf, 1], c=np.zeros(0))
    done = cli("stats", tmp_path / "x.npz")
    assert done.code == 1
    assert done.err == "NaN or infinity in 1 tensor, the first b\n"
    assert not cli("stats", tmp_path / "x.npz", "--json").json["finite"]


# -- diff -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def other(file: Path, tmp_path: Path) -> Path:
    state = torch.load(file)["model"]
    state["head"] = state["head"] + 1
    torch.save(state, tmp_path / "other.pt")
    return tmp_path / "other.pt"


def test_diff(cli: Any, file: Path, other: Path) -> None:
    done = cli("diff", file, other, "--map", "model/=", "--map", "nothing=x", "--only-changed")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == f"{file} → {other}"
    assert lines[2].split() == ["~", "head", "float32", "2", "×", "3", "0.3303", "1", "0.989455", "6", "differ"]
    assert [line.split()[0] for line in lines[3:-1]] == ["-"] * 4
    assert lines[-1] == "121 tensors: 120 same, 1 changed; 4 plain values: 4 removed"
    assert done.err == f"--map nothing=x applies to nothing in {file}\n"
    assert cli("diff", file, other, "h.*", "--map", "model/=").code == 0
    assert cli("diff", file, other, "head", "--map", "model/=", "--atol", "1").code == 0


def test_diff_as_json(cli: Any, file: Path, other: Path) -> None:
    told = cli("diff", file, other, "head", "--map", "model/=", "--json").json
    assert (told["same"], told["unmatched_maps"], told["values"]) == (False, [], {})
    assert told["tensors"]["head"] | {"relative_l2": 0, "cosine": 0} == {
        "verdict": "changed", "old_path": "model/head", "by_digest": False,
        "a": {"dtype": "float32", "shape": [2, 3]}, "b": {"dtype": "float32", "shape": [2, 3]},
        "elements_unequal": 6, "elements_beyond": 6, "relative_l2": 0, "max_abs": 1.0, "cosine": 0,
        "nans_in_both": 0, "not_finite_in_one": 0,
    }  # fmt: skip


def test_diff_suggests_a_map(cli: Any, file: Path, other: Path) -> None:
    assert "`--map model/=` would make them meet" in cli("diff", file, other).err
    assert cli("diff", file, file).err == ""


def test_diff_is_told_wrong(cli: Any, file: Path) -> None:
    assert cli("diff", file, file, "--map", "model").code == 2
    assert cli("diff", file, file, "--atol", "-1").code == 2


# -- ls, verify -------------------------------------------------------------------------------------------------------
def test_ls_of_other_formats(cli: Any, tmp_path: Path) -> None:
    for step, scale in ((9, 1), (10, 2), (11, 500)):
        torch.save({"w": torch.full((9,), float(scale))}, tmp_path / f"model-{step}.pt")
    (tmp_path / "cut-12.pt").write_bytes((tmp_path / "model-11.pt").read_bytes()[:-40])
    shown = cli("ls", tmp_path, "--check-values").out.splitlines()
    assert shown[0].startswith(f"{tmp_path}: 4 checkpoints, ")
    assert [line.split()[:2] for line in shown[2:]] == [
        ["cut-12.pt", "12"],
        *([f"model-{n}.pt", str(n)] for n in (9, 10, 11)),
    ]
    assert shown[2].endswith("cannot be read: the archive has no end: it is cut short")
    assert shown[5].endswith("first explosion: w × 250")
    (told,) = cli("ls", tmp_path, "--json").json["others"]
    assert [one["step"] for one in told["checkpoints"]] == [12, 9, 10, 11]
    assert told["checkpoints"][1]["holds"] == "weights"
    assert cli("ls", tmp_path / "model-9.pt").out.splitlines()[1].split()[0] == "model-9.pt"
