"""A fixture for the test suites of training code; pytest finds it where milepost is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def assert_resumes_exactly(tmp_path: Path) -> Callable[..., Any]:
    """A function that audits a training function (or a command) and fails the test unless it resumes exactly.

    It takes what `milepost.audit` takes, and returns its report. The processes run in the test's `tmp_path`.

    Example:
        >>> def train():
        ...     ...  # makes a milepost.Checkpointer, and a few steps
        >>> def test_training_resumes(assert_resumes_exactly):
        ...     assert_resumes_exactly(train, at=[3, 7])
    """

    def check(script: Callable[[], Any] | Sequence[str], **options: Any) -> Any:
        from milepost.auditing.audit import audit
        from milepost.auditing.report import Verdict

        report = audit(script, **{"cwd": tmp_path, **options})
        if report.verdict is not Verdict.EXACT:
            pytest.fail(str(report), pytrace=False)
        return report

    return check
