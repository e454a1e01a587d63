"""`milepost audit` of JAX scripts: every planted fault is found and named, and no script that does it right is accused."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "auditing"))

from launcher import Launcher

from milepost.auditing.audit import audit
from milepost.auditing.report import Report, Verdict

GALLERY = Path(__file__).parent / "gallery"
EXPECTED = tomllib.loads((GALLERY / "expected.toml").read_text())
NAMES = sorted(EXPECTED)
IMPORTED = (
    "jax", "optax", "flax.nnx", "flax.linen", "equinox", "grain.python",
    "milepost.auditing.observer", "milepost.training.checkpointer", "milepost.jax.items", "milepost.jax.nnx",
)  # fmt: skip
STEP = 8


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All processes share what XLA compiled, which would take most of their time."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    always = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache, **always}


@pytest.fixture(scope="module")
def launcher(environment: dict[str, str]) -> Iterator[Launcher]:
    with Launcher(IMPORTED, environment) as one:
        yield one


def play(
    launcher: Launcher, command: Sequence[str], env: Mapping[str, str], cwd: Path, output: Path, seconds: Any
) -> int:
    return launcher.launch(list(command), dict(env), cwd, output, seconds or 300)


Audited = Callable[[str, str], Report]


@pytest.fixture
def audited(launcher: Launcher, environment: dict[str, str], tmp_path: Path) -> Audited:
    """Audits a script of the gallery."""

    def run(kind: str, name: str) -> Report:
        command = [sys.executable, str(GALLERY / kind / f"{name}.py"), "run"]
        whole = {**os.environ, **environment}
        return audit(command, at=[STEP], cwd=tmp_path, environment=whole, launch=partial(play, launcher))

    return run


def test_the_gallery_is_whole() -> None:
    for kind in ("clean", "faulty"):
        assert sorted(path.stem for path in (GALLERY / kind).glob("*.py")) == NAMES
    assert len(NAMES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_found_and_named(name: str, audited: Audited) -> None:
    report = audited("faulty", name)
    assert report.verdict is Verdict.NOT_EXACT
    texts = [cause.text for cause in report.causes]
    assert any(words.lower() in text.lower() for words in EXPECTED[name]["causes"] for text in texts), texts
    assert any(piece in cause.path for cause in report.causes for piece in EXPECTED[name]["names"]), report.causes


@pytest.mark.parametrize("name", NAMES)
def test_a_script_that_does_it_right_is_not_accused(name: str, audited: Audited) -> None:
    report = audited("clean", name)
    assert report.verdict is Verdict.EXACT, [row for row in report.rows if row.verdict is not Verdict.EXACT]
