"""The gallery is what it says: without any audit, each script is played straight through, and killed and started again.

A clean one ends the same to the bit, a faulty one differs in its metrics, its steps, or what it ends with.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from launcher import Launcher
from watched import KILLED

GALLERY = Path(__file__).parent / "gallery"
EXPECTED = tomllib.loads((GALLERY / "expected.toml").read_text())
FAULTY = sorted(path.stem for path in (GALLERY / "faulty").glob("*.py"))
CLEAN = sorted(path.stem for path in (GALLERY / "clean").glob("*.py"))
KILLS = (7, 10, 15)
"""Steps at which a clean script is killed, in one run; a checkpoint is there each time."""


class Player:
    """Plays one script, each run in a folder of its own. A restart has other hashes and another start of the random numbers, as
    real ones have."""

    def __init__(self, launcher: Launcher, script: Path, folder: Path) -> None:
        self._launcher, self._script, self._folder = launcher, script, folder

    def start(self, run: str, *, die_at: int = 0) -> dict[str, Any]:
        """Start the command of `run`, again where it was killed; what came of it."""
        cwd = self._folder / run
        again = cwd.exists()
        cwd.mkdir(exist_ok=True)
        outcome = cwd / "outcome.json"
        watched = Path(__file__).with_name("watched.py")
        command = [
            sys.executable, str(watched), str(outcome), str(die_at), str(int(again)), str(self._script), "run"
        ]  # fmt: skip
        fresh = EXPECTED.get(self._script.stem, {}).get("fresh", False)
        hashes = {"PYTHONHASHSEED": str(int(again))} if fresh else {}
        code = self._launcher.launch(command, {**os.environ, **hashes}, cwd, cwd / "output.txt", 120)
        assert code == (KILLED if die_at else 0), (cwd / "output.txt").read_text()
        return json.loads(outcome.read_text())  # type: ignore[no-any-return]


def test_the_gallery_is_whole() -> None:
    assert len(FAULTY) >= 28
    assert set(EXPECTED) == set(FAULTY) < set(CLEAN)
    for name in FAULTY:
        faulty, clean = ((GALLERY / kind / f"{name}.py").read_text() for kind in ("faulty", "clean"))
        assert "Forgotten: " in faulty.splitlines()[0]
        assert "Forgotten" not in clean
        assert any(piece in faulty for one in EXPECTED[name]["names"] for piece in one.split("/")), name


def differences(straight: dict[str, Any], resumed: dict[str, Any]) -> list[str]:
    """Where a resumed run is not what the same steps of the one straight through were."""
    first = resumed["from"]
    found = [
        f"{where}: {straight['rows'].get(where)}, resumed {rows}"
        for where, rows in resumed["rows"].items()
        if rows != straight["rows"].get(where)
    ]
    if resumed["end"] is None:
        return found
    missing = [where for where in straight["rows"] if int(where.split()[-1]) > first and where not in resumed["rows"]]
    found += [f"{where}: not in the resumed run" for where in missing]
    return found + [f"{what} at the end" for what in straight["end"] if straight["end"][what] != resumed["end"][what]]


@pytest.fixture(name="player")
def _player(launcher: Launcher, tmp_path: Path, request: pytest.FixtureRequest) -> Player:
    return Player(launcher, GALLERY / request.param, tmp_path)


@pytest.mark.parametrize("player", [f"clean/{name}.py" for name in CLEAN], indirect=True)
def test_clean_scripts_resume_exactly(player: Player) -> None:
    straight = player.start("straight")
    begun = []
    for die_at in (*(kill for kill in KILLS if f"step {kill}" in straight["rows"]), 0):
        resumed = player.start("killed", die_at=die_at)
        assert differences(straight, resumed) == []
        begun.append(resumed["from"])
    assert begun == sorted(begun)
    assert begun[0] == 0
    assert begun[1] >= 4
    assert resumed["end"] is not None


@pytest.mark.parametrize("player", [f"faulty/{name}.py" for name in FAULTY], indirect=True)
def test_faulty_scripts_do_not(player: Player, request: pytest.FixtureRequest) -> None:
    expected = EXPECTED[Path(request.node.callspec.params["player"]).stem]
    at = expected.get("at", 8)
    straight = player.start("straight")
    killed = player.start("killed", die_at=at + 2)
    assert bool(differences(straight, killed)) == expected.get("control", False)
    resumed = player.start("killed")
    assert resumed["from"] == at
    assert differences(straight, resumed)
