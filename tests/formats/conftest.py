"""What the tests of all formats share: files made by the real libraries, in a process of their own, and how long to fuzz."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

SAMPLE = 100
"""Mutants of each file in an ordinary run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=SAMPLE, metavar="N", help="mutants of each golden file")


@pytest.fixture(scope="session")
def fuzz(request: pytest.FixtureRequest) -> int:
    """How many mutants of each golden file are tried."""
    return int(request.config.getoption("--fuzz", default=SAMPLE))


@pytest.fixture(scope="session")
def fuzz_processes(fuzz: int) -> int:
    """The same for formats of which every file costs a process: few in an ordinary run."""
    return fuzz if fuzz != SAMPLE else SAMPLE // 10


@pytest.fixture(scope="session")
def answers_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Iterable[Path]], list[dict[str, Any]]]:
    """What comes of opening each of some files, and its seconds of processor time and bytes of memory (``opening.py``)."""

    def run(places: Iterable[Path]) -> list[dict[str, Any]]:
        listed = tmp_path_factory.mktemp("places") / "places.json"
        listed.write_text(json.dumps([str(place) for place in places]))
        script = [sys.executable, str(Path(__file__).parent / "opening.py"), str(listed)]
        ended = subprocess.run(script, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-4000:]
        return list(json.loads(ended.stdout))

    return run
