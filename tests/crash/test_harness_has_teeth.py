"""The harness notices every mistake in `harness.variants`: a harness that passes with one of them tests nothing."""

from __future__ import annotations

import pytest
from harness.machine import CrashMachine
from harness.variants import MISTAKES, STORAGES
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from milepost.storage.base import Storage
from milepost.storage.faults import Wrapper

QUIET = settings(
    max_examples=3000, stateful_step_count=40, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet,
)  # fmt: skip


@pytest.mark.parametrize("forgetful", STORAGES)
def test_the_state_machine_misses_no_sync(forgetful: type[Wrapper]) -> None:
    class Forgetful(CrashMachine):
        def wrapped(self, storage: Storage) -> Storage:
            return forgetful(storage)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Forgetful, settings=QUIET)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_state_machine_notices(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MISTAKES[mistake](monkeypatch)
    with pytest.raises((AssertionError, OSError)):  # it may be the storage that refuses first
        run_state_machine_as_test(CrashMachine, settings=QUIET)
