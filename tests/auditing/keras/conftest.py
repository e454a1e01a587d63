"""Starts a launcher for each backend, once it is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from galleries import Backend, Backends


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-backend", action="store_true", help="audit every script on every backend of Keras")


@pytest.fixture(scope="session")
def backends() -> Iterator[Backends]:
    opened = Backends()
    yield opened
    opened.close()


@pytest.fixture
def backend(request: pytest.FixtureRequest, backends: Backends) -> Backend:
    return backends.get(request.param)
