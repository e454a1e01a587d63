"""Jobs to drive the folder layer with: those of the crash harness, which is made importable here too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost.storage.base import Storage
from milepost.storage.memory import MemoryStorage

sys.path.insert(0, str(Path(__file__).parent.parent / "crash"))

if TYPE_CHECKING:
    from harness.driving import Job


@pytest.fixture
def disk() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def open_job() -> Iterator[Callable[..., Job]]:
    """``open_job(storage, keep, resume=..., takeover=...)``: a job that need not be ended."""
    from harness.driving import Job

    jobs: list[Job] = []

    def start(storage: Storage, *arguments: Any, **options: Any) -> Job:
        jobs.append(Job(storage, *arguments, **options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.die()
        job.attempt._lock.release()
