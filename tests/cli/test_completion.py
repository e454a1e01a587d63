"""Completion, asked as the shells ask."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milepost.folder.run import RunFolder

PROGRAM = (
    f'#!{sys.executable}\nimport sys\nfrom milepost.cli.main import main\nsys.argv[0] = "milepost"\nsys.exit(main())\n'
)


@pytest.fixture
def folder(branched: RunFolder, start_job: Callable[..., Any], tmp_path: Path, cli: Any) -> Path:
    """Runs ``run`` and ``deep/down/other``, the first with tags; one of them cannot be typed."""
    start_job(tmp_path / "deep" / "down" / "other").save(1)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd\x1b[2J name").mkdir()
    cli("tag", branched.where, "paper")
    (tmp_path / "run" / "tags" / "e\x1bvil$(x).json").write_text('{"attempt":1,"step":2}')
    np.savez(tmp_path / "x.npz", **{"layer/a": np.ones(2), "layer/b": np.ones(2)})
    program = tmp_path / "bin" / "milepost"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return tmp_path


def ask(folder: Path, *words: str) -> list[str]:
    """What bash replaces the last word (after the last break) with, asked through typer's own script for bash."""
    script = """
eval "$(milepost --show-completion bash)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_milepost_completion milepost
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", *words],
        cwd=folder, capture_output=True, text=True, check=True, timeout=120,
        env=os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


# Words as bash takes them apart: at @, = and :, which are words of their own; of a word after @ it replaces the @ as well.
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ver"], ["verify"]),
        (
            ["show", "ru"],
            [
                "run",
                "run@latest",
                "run@good",
                "run@best",
                "run@paper",
                *(f"run@step={n}" for n in (400, 350, 300, 200, 100)),
            ],
        ),
        (
            ["show", "de"],
            ["deep/down/other", "deep/down/other@latest", "deep/down/other@good", "deep/down/other@step=1"],
        ),
        (["ls", ""], ["bin/", "deep/", "empty/", "run"]),
        (["ls", "deep/"], ["deep/down/other"]),
        (["show", "run/step-000003"], ["run/step-00000300", "run/step-00000300.superseded-1", "run/step-00000350"]),
        (
            ["show", "run", "@"],
            ["@latest", "@good", "@best", "@paper", *(f"@step={n}" for n in (400, 350, 300, 200, 100))],
        ),
        (["show", "run", "@", "be"], ["@best"]),
        (["verify", "run", "@", "step", "=", "3"], ["350", "300"]),
        (["show", "run", "@", "best", "mo"], ["model", "model/"]),
        (["cat", "run", "@", "best", "vars/betas/"], ["vars/betas/0", "vars/betas/1"]),
        (["verify", "run", "--tensors", "model/h"], ["model/head.weight"]),
        (["prune", "run", "--best", "val"], ["val_loss"]),
        (["tag", "run", "p"], ["paper"]),
        (["diff", "run", "x"], ["x.npz"]),
        (["diff", "run", "x.npz", "layer/"], ["layer/a", "layer/b"]),
        (["show", "nowhere", "@"], []),
        (["cat", "nowhere", "m"], []),
    ],
)
def test_bash(folder: Path, words: list[str], expected: list[str]) -> None:
    assert ask(folder, "milepost", *words) == expected


def test_zsh_is_answered_in_its_own_form(process: Any, folder: Path) -> None:
    extra = {"_MILEPOST_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "milepost show run@be"}
    assert "run@best" in process(cwd=folder, **extra).out
