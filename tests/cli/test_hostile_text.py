"""Names and texts that try to command the terminal: shown as text, by every command, in the table and in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from milepost.core.manifest import decode, encode

OSC_52 = "\x1b]52;c;cm0gLXJm\x07"  # writes the clipboard
OSC_8 = "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\"  # a link that says something else
MARKUP = "[/x][red]"
BIDI = "\u202egpj.exe\u2066"
CONTROLS = "a\nb\rc\x9b2J\x7f\u2028"
HOSTILE = OSC_52 + OSC_8 + MARKUP + BIDI + CONTROLS
NPZ = HOSTILE.replace("/", "∕") + ".npz"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture
def run(start_job: Callable[..., Any], tmp_path: Path) -> Path:
    """A run whose folder, metrics, items, tensors, plain values, metadata and tags all have such names."""
    where = tmp_path / HOSTILE.replace("/", "∕")
    job = start_job(where)
    state = {
        HOSTILE.replace("/", "~1"): {"tensor" + HOSTILE: np.ones(3), "bad" + HOSTILE: np.array([np.nan])},
        "vars": {HOSTILE: HOSTILE, "deep": {HOSTILE: [HOSTILE]}},
    }
    written_by = {"command": ["python", HOSTILE], HOSTILE: {HOSTILE: HOSTILE}, "host": HOSTILE}
    job.save(1, state, written_by=written_by, **{HOSTILE: 0.5})
    job.save(2, state, written_by=written_by, **{HOSTILE: 0.25})
    job.end(HOSTILE)
    (where / "tags" / (BIDI + MARKUP.replace("/", "") + "\x1b[2J.json")).write_text('{"attempt":1,"step":2}')
    (where / "step-00000001" / HOSTILE.replace("/", "∕")).write_text("a file nobody knows")
    edit_summary(where / "step-00000002", why_not_good=HOSTILE, good=False, time=HOSTILE, phase=HOSTILE)
    manifest = where / "step-00000001" / "manifest.json"
    manifest.chmod(0o644)
    (tmp_path / "others").mkdir()
    np.savez(tmp_path / "others" / NPZ, **{HOSTILE.replace("/", "∕"): np.array([np.nan, 1])})
    return where


def edit_summary(folder: Path, **fields: Any) -> None:
    manifest = folder / "manifest.json"
    manifest.chmod(0o644)
    read = decode(manifest.read_bytes(), "")
    manifest.write_bytes(encode(msgspec.structs.replace(read, summary=msgspec.structs.replace(read.summary, **fields))))


def commands(run: Path) -> dict[str, list[str]]:
    item = HOSTILE.replace("/", "~1")
    return {
        "ls of the folder": ["ls", str(run.parent)],
        "ls": ["ls", str(run)],
        "show": ["show", str(run)],
        "show an item": ["show", str(run), item],
        "cat": ["cat", str(run), f"{item}/tensor{item}", "vars"],
        "show a pattern": ["show", str(run), f"*{BIDI}*"],
        "stats": ["stats", str(run)],
        "stats of layers": ["stats", str(run), "--layers", "--bins", "2"],
        "diff": ["diff", f"{run}@step=1", f"{run}@step=2", "--map", f"{HOSTILE}=x"],
        "values of ls": ["ls", str(run), "--check-values"],
        "ls of another format": ["ls", str(run.parent / "others")],
        "diff with another format": ["diff", str(run), str(run.parent / "others" / NPZ)],
        "verify another format": ["verify", str(run.parent / "others")],
        "verify": ["verify", str(run)],
        "prune": ["prune", str(run), "--dry-run", "--last", "1"],
        "tag": ["tag", str(run)],
        "an unknown path": ["cat", str(run), "vars/" + HOSTILE],
        "an unknown checkpoint": ["show", f"{run}@{HOSTILE.replace('/', '')}"],
        "an unknown place": ["show", str(run.parent / BIDI) + "\x1b[2J\n"],
        "an unknown option": ["show", "--\x1b[2J" + BIDI],
        "an unknown command": ["\x1b[2J" + BIDI],
        "a bad number": ["prune", str(run), "--last", "\x1b[2J" + BIDI],
        "a bad tag": ["tag", str(run), "\x1b[2J" + BIDI],
    }


NAMES = list(commands(Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_obeyed(process: Any, run: Path, name: str) -> None:
    done = process(*commands(run)[name])
    assert done.code in ((0, 1) if not name.startswith(("an ", "a ")) else (2, 4))
    assert done.out or done.err
    for text in (done.out, done.err):
        assert OBEYED.findall(text) == []
        assert "Traceback" not in text


@pytest.mark.parametrize("name", NAMES)
def test_in_json_everything_is_ascii(cli: Any, run: Path, name: str) -> None:
    done = cli(*commands(run)[name], "--json")
    assert OBEYED.findall(done.out + done.err) == []
    assert done.out.isascii()
    json.loads(done.out)


def test_what_cannot_be_obeyed_is_shown(process: Any, run: Path) -> None:
    shown = process("show", str(run)).out
    assert r"\x1b]52;c;cm0gLXJm\x07" in shown
    assert r"[/x][red]\u202egpj.exe" in shown
    listed = process("ls", str(run)).out
    assert r"not good: \x1b]52" in listed
    assert len(listed.splitlines()) == 4  # the head, the titles and two rows, whatever the line ends in the names


def test_json_has_the_names_exactly(process: Any, run: Path) -> None:
    shown = process("show", str(run), "--json").json
    assert shown["written_by"]["host"] == HOSTILE
    assert list(shown["summary"]["metrics"]) == [HOSTILE]
    assert shown["values"]["vars/deep/" + HOSTILE.replace("/", "~1") + "/0"]["value"] == HOSTILE


def test_a_terminal_is_told_nothing_either(terminal: Any, run: Path) -> None:
    for arguments in (["ls", str(run)], ["show", str(run)], ["verify", str(run)]):
        started = terminal(*arguments, columns=100, NO_COLOR="1")
        started.end()
        shown = started.shown.replace("\r\x1b[K", "")  # the line of progress, written over
        assert OBEYED.findall(shown) == []
