"""Starts a launcher for each backend, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backends import ENVIRONMENT, Backend
from launcher import KERAS, Launcher


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-backend", action="store_true", help="audit every script on every backend of Keras")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    environment = {**ENVIRONMENT, "KERAS_BACKEND": request.param}
    with Launcher(KERAS, environment) as launcher:
        yield Backend(request.param, environment, launcher)
