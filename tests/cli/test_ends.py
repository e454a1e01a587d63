"""How commands end that do not end well, and what they show to whom."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milepost.cli import main as cli_main
from milepost.folder.run import RunFolder
from milepost.ops import listing

Make = Callable[..., RunFolder]
COLOUR = re.compile(r"\x1b\[\d+m")


def test_an_unexpected_error_is_one_line_and_how_to_learn_more(
    cli: Any, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = make_run().where
    monkeypatch.setattr(listing, "list_run", lambda _: 1 / 0)
    done = cli("ls", where)
    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines()[0] == "error: unexpected ZeroDivisionError: division by zero"
    assert "MILEPOST_DEBUG=1" in done.err
    assert "Traceback" not in done.err
    assert cli("ls", where, "--json").json["error"]["kind"] == "error"
    monkeypatch.setenv("MILEPOST_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli("ls", where)


def test_debugging_shows_where_milepost_errors_come_from(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILEPOST_DEBUG", "1")
    done = cli("show", tmp_path / "missing")
    assert done.code == 4
    assert "Traceback" in done.err
    assert "error: there is nothing at this place" in done.err


def test_a_failure_of_the_storage_outside_milepost_has_its_kind(
    cli: Any, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = make_run().where

    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied", "/somewhere")

    monkeypatch.setattr(listing, "list_run", refuse)
    done = cli("ls", where)
    assert done.code == 7
    assert "Permission denied" in done.err
    assert "/somewhere" in done.err


def test_nobody_reads_the_output(make_run: Make, start_job: Callable[..., Any], tmp_path: Path) -> None:
    start_job(tmp_path / "large").save(1, {"model": {"w": np.arange(200_000)}})
    command = [*_command(), "cat", str(tmp_path / "large"), "model/w", "--all"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.read(10)
        done.stdout.close()
        assert done.stderr.read() == b""
        assert done.wait(60) == cli_main.NOBODY_READS


def test_ctrl_c_ends_quietly_and_removes_nothing(terminal: Any, make_run: Make) -> None:
    run = make_run()
    started = terminal("prune", run.where, "--last", "1")
    started.read_until("Remove 2 checkpoints?")
    started.type("\x03")
    assert started.end() == cli_main.INTERRUPTED
    assert "Traceback" not in started.shown
    assert started.shown.rstrip().endswith("interrupted")
    assert len(run.checkpoints()) == 3


@pytest.mark.parametrize(("answer", "left"), [("y\n", 1), ("n\n", 3), ("\n", 3)])
def test_prune_asks(terminal: Any, make_run: Make, answer: str, left: int) -> None:
    run = make_run()
    started = terminal("prune", run.where, "--last", "1")
    started.read_until("Remove 2 checkpoints?")
    started.type(answer)
    assert started.end() == 0
    assert len(run.checkpoints()) == left


def test_prune_says_that_a_job_is_running(terminal: Any, start_job: Callable[..., Any]) -> None:
    job = start_job()
    for step in (1, 2):
        job.save(step)
    started = terminal("prune", job.run.where, "--last", "1", columns=200)
    started.read_until("Remove 1 checkpoint?")
    started.type("y\n")
    assert started.end() == 0
    assert "attempt 1 is running" in started.shown
    job.save(3)
    assert [one.step for one in job.run.checkpoints()] == [2, 3]


def test_colour_is_for_terminals_that_want_it(terminal: Any, process: Any, branched: RunFolder) -> None:
    def shown(**extra: str) -> str:
        started = terminal("ls", branched.where, columns=200, **extra)
        assert started.end() == 0
        return str(started.shown)

    coloured = shown()
    assert COLOUR.search(coloured)
    assert not COLOUR.search(shown(NO_COLOR="1"))
    assert not COLOUR.search(shown(TERM="dumb"))
    piped = process("ls", branched.where).out
    assert "\x1b" not in piped
    assert [line.split()[:1] for line in COLOUR.sub("", coloured).splitlines()] == [
        line.split()[:1] for line in piped.splitlines()
    ]


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_lines_are_no_wider_than_the_terminal(terminal: Any, branched: RunFolder, columns: int) -> None:
    started = terminal("ls", branched.where, columns=columns, NO_COLOR="1", COLUMNS=str(columns))
    started.end()
    rows = started.shown.splitlines()[1:]
    assert rows[0].startswith("CHECKPOINT")
    assert all(len(row) <= columns for row in rows if not row.startswith("no room"))
    if columns == 60:
        assert "no room for EPOCH, BATCH, SAVED, val_loss, loss, NEW; --json has all" in rows
    if columns == 160:
        assert "val_loss" in rows[0]


def test_progress_is_for_terminals(terminal: Any, process: Any, branched: RunFolder) -> None:
    started = terminal("verify", branched.where, columns=200)
    started.end()
    assert f"\r\x1b[K1 of 6: {branched.where}/step-00000100" in started.shown
    assert process("verify", branched.where).err == ""


def test_a_terminal_without_unicode_is_no_reason_to_fail(process: Any, make_run: Make) -> None:
    done = process("show", make_run().where, PYTHONIOENCODING="ascii", LANG="C", PYTHONUTF8="0")
    assert done.code == 0
    assert r"32 \xd7 64" in done.out


def _command() -> list[str]:
    import sys

    return [sys.executable, "-c", "import sys; from milepost.cli.main import main; sys.exit(main())"]


def test_commands_import_no_framework_and_ls_not_even_numpy(make_run: Make) -> None:
    where = make_run().where
    commands = [
        ["ls", where], ["show", where], ["cat", where, "model/head.weight"], ["verify", where], ["verify", where, "--quick"],
        ["tag", where, "a"], ["tag", where], ["pin", where], ["prune", where, "--dry-run"], ["--help"], ["ls", "--help"],
    ]  # fmt: skip
    code = """
import sys
from milepost.cli.main import main
codes, found = [], {}
for arguments in COMMANDS:
    codes.append(main(arguments))
    loaded = {"torch", "tensorflow", "jax", "keras", "numpy", "rich"} & set(sys.modules)
    found[arguments[0]] = sorted(loaded)
print(codes, found["ls"], set().union(*found.values()), sep="|")
"""
    done = subprocess.run(
        [*_command()[:2], code.replace("COMMANDS", repr([commands[0], *commands]))],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    codes, _, loaded = done.stdout.splitlines()[-1].split("|")
    assert set(codes) <= set("[0, ]")
    assert loaded == "{'numpy'}"
    only_ls = subprocess.run(
        [*_command()[:2], code.replace("COMMANDS", repr([commands[0]]))], capture_output=True, text=True, check=True
    )
    assert only_ls.stdout.splitlines()[-1] == "[0]|[]|set()"
