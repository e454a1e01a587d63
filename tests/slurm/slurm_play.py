"""Slurm's commands, played: small scripts first on PATH, whose words are recorded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Play = Callable[..., None]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """``slurm(squeue=squeue("12"), scontrol="exit 1")`` plays these commands, and no others are there; each call
    is a line in ``tmp_path / "asked"``."""
    commands = tmp_path / "commands"
    commands.mkdir()
    monkeypatch.setenv("PATH", str(commands))
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SQUEUE_"))]:
        monkeypatch.delenv(name)

    def play(**scripts: str) -> None:
        for name, script in scripts.items():
            path = commands / name
            path.write_text(f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/asked\n{script}\n')
            path.chmod(0o755)

    return play


def squeue(number: str, state: str = "RUNNING 1 1 None", *, left: int = 86_400, limit: str = "1-00:00:00") -> str:
    """A ``squeue`` that tells this of job `number`: its state, whether it may be requeued, whether it is a batch job, and why; the
    seconds that are left, and its limit."""
    end = f"{number} {limit} $(($(/bin/date +%s) + {left}))"
    return f'case "$*" in *EndTime*) echo {end};; *) echo "{number} {state}";; esac'


def asked(tmp_path: Path) -> list[str]:
    """What was asked of Slurm so far."""
    path = tmp_path / "asked"
    return path.read_text().splitlines() if path.exists() else []
