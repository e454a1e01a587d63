"""Every storage that keeps the contract, and memory to move bytes from and to."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from milepost.storage import BLOCK, LocalStorage, Storage
from milepost.storage.faults import FaultyStorage, Wrapper
from milepost.storage.memory import MemoryStorage

SHARED_MEMORY = "/dev/shm"
KINDS = ["local", "buffered", "memory", "faulty-local", "faulty-memory", "wrapped-memory"]
if os.path.isdir(SHARED_MEMORY) and os.access(SHARED_MEMORY, os.W_OK):
    KINDS.append("tmpfs")


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a file system that has no `O_DIRECT`."""
    real = fcntl.fcntl

    def refuse(fd: int, command: int, argument: int | bytes = 0) -> int | bytes:
        if command == fcntl.F_SETFL and isinstance(argument, int) and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """An empty storage of each kind."""
    match request.param:
        case "local":
            yield LocalStorage(tmp_path)
        case "buffered":
            refuse_direct(monkeypatch)
            yield LocalStorage(tmp_path)
        case "memory":
            yield MemoryStorage()
        case "faulty-local":
            yield FaultyStorage(LocalStorage(tmp_path))
        case "faulty-memory":
            yield FaultyStorage(MemoryStorage())
        case "wrapped-memory":
            yield Wrapper(MemoryStorage())
        case "tmpfs":
            folder = tempfile.mkdtemp(dir=SHARED_MEMORY)
            yield LocalStorage(folder)
            shutil.rmtree(folder)


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


@pytest.fixture
def aligned() -> Callable[[int], memoryview]:
    """Page-aligned, writable memory of so many bytes, filled with noise."""

    def make(size: int) -> memoryview:
        view = memoryview(mmap.mmap(-1, max(BLOCK, size)))[:size]
        view[:] = random.Random(size).randbytes(size)
        return view

    return make
