"""The folder layer against a trivial model, on a storage that can lose its power (`harness.machine`).

``MILEPOST_CRASH_EXAMPLES=20000 pytest tests/crash/test_state_machine.py`` looks longer.
"""

from __future__ import annotations

import os

from harness.machine import CrashMachine
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

EXAMPLES = int(os.environ.get("MILEPOST_CRASH_EXAMPLES", "400"))


def test_what_was_acknowledged_survives_everything() -> None:
    thorough = settings(
        max_examples=EXAMPLES, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(CrashMachine, settings=thorough)
