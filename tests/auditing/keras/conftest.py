"""Starts a launcher for each backend, once it is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from launcher import KERAS, Launcher

sys.path.append(str(Path(__file__).parent))

from galleries import ENVIRONMENT, NAMES, Backend


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-backend", action="store_true", help="audit every script on every backend of Keras")


class Backends:
    """The launchers that were started."""

    def __init__(self) -> None:
        self._open: dict[str, Backend] = {}
        self._stack = ExitStack()

    def get(self, name: str) -> Backend:
        if name not in self._open:
            assert name in NAMES
            environment = {**ENVIRONMENT, "KERAS_BACKEND": name}
            launcher = self._stack.enter_context(Launcher(KERAS, environment))
            self._open[name] = Backend(name, environment, launcher)
        return self._open[name]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def backends() -> Iterator[Backends]:
    opened = Backends()
    yield opened
    opened.close()


@pytest.fixture
def backend(request: pytest.FixtureRequest, backends: Backends) -> Backend:
    return backends.get(request.param)
