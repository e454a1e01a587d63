"""The folder layer against a trivial model, on a storage that can lose its power (`harness.machine`)."""

from __future__ import annotations

from harness.machine import CrashMachine
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test


def test_what_was_acknowledged_survives_everything() -> None:
    thorough = settings(
        max_examples=4 * settings().max_examples, stateful_step_count=40, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(CrashMachine, settings=thorough)
