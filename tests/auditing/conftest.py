"""Lets the tests import the helpers beside them, and starts the launcher once."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from milepost.auditing.audit import audit
from milepost.auditing.report import Report

sys.path.append(str(Path(__file__).parent))

from launcher import Launcher
from scripts import SCRIPT


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    with Launcher() as one:
        yield one


@pytest.fixture(name="job")
def _job(tmp_path: Path, launcher: Launcher) -> Callable[..., Report]:
    """Writes a script, with something more to do at every step, and audits it."""

    def run(step: str = "pass", *, script: str = SCRIPT, **options: Any) -> Report:
        (tmp_path / "train.py").write_text(script.replace("{step}", step))
        options = {"launch": launcher.launch, **options}
        return audit([sys.executable, "train.py"], cwd=tmp_path, **options)

    return run
