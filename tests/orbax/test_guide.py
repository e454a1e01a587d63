"""docs/orbax.md: every script in it is run, and every command answers as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import milepost

GUIDE = Path(__file__).parents[2] / "docs" / "orbax.md"
_BLOCK = re.compile(r"^( *)```(python|console)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_VARIES = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\d+ (?:s|min) ago|now"), "AGO"),
    (re.compile(r"\d[\d.]* [kM]?B"), "SIZE"),
    (re.compile(r", [\d.]+ steps/s"), ""),
    (re.compile(r"0\.\d+"), "NUMBER"),
    (re.compile(r"\[ ?-?[\d. -]+\]$"), "[NUMBERS]"),
    (re.compile(r" +"), " "),
)  # fmt: skip
"""What no two machines have in common: times, sizes of compressed files, and the last digits of what was trained."""


class Command(NamedTuple):
    line: str
    shown: str


def blocks() -> tuple[dict[str, str], list[Command]]:
    """The scripts by their names, and the commands with what they show."""
    scripts, commands = {}, []
    for _, kind, text in _BLOCK.findall(GUIDE.read_text()):
        text = textwrap.dedent(text)
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            assert name is not None, text
            scripts[name[1]] = text
            continue
        for one in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, shown = one.partition("\n")
            commands.append(Command(line, shown))
    return scripts, [one for one in commands if not one.line.startswith("pip ")]


def same_everywhere(text: str) -> list[str]:
    """The lines of `text` without what varies; of the lines that tell of progress the last, and of a slow disk none."""
    for pattern, name in _VARIES:
        text = pattern.sub(name, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    progress = [line for line in lines if line.startswith("milepost: epoch")]
    return [line for line in lines if line not in progress[:-1] and not line.startswith("milepost: waited")]


def test_all_of_it_is_true(tmp_path: Path) -> None:
    scripts, commands = blocks()
    assert len(scripts) == 6
    assert len(commands) == 11
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    starts = {"python": "", "milepost": " -m milepost"}
    for name, rest in starts.items():
        (bin_dir / name).write_text(f'#!/bin/sh\nexec {sys.executable}{rest} "$@"\n')
        (bin_dir / name).chmod(0o755)
    source = str(Path(milepost.__file__).parents[1])
    env = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "PYTHONPATH": source, "JAX_PLATFORMS": "cpu"}
    env |= {"COLUMNS": "132", "XLA_FLAGS": ""}
    for command in commands:
        done = subprocess.run(["sh", "-c", command.line], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command.line}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        told = [line for line in done.stderr.splitlines() if line.startswith("milepost: ")]
        shown = ("\n".join(told) + "\n" + done.stdout).replace(f"{tmp_path}/", "")
        assert same_everywhere(shown) == same_everywhere(command.shown), command.line
