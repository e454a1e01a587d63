"""What a quota leaves. The kernel is played: few machines that test have quotas."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from milepost.storage import quota
from milepost.storage.local import LocalStorage

VALID = 0x3F


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], tuple[int, int, int]]:
    """(0 user or 1 group, identity) -> (limit in KiB, bytes used, what of it is valid); ESRCH for all others."""
    known: dict[tuple[int, int], tuple[int, int, int]] = {}

    def call(name: str, number: int, fd: int, command: int, identity: int, out: Any) -> None:
        assert (name, number, command & ~0xFF) == ("syscall", 443, 0x80000700)
        os.fstat(fd)
        if (command & 0xFF, identity) not in known:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        out._obj.hard, out._obj.used, out._obj.valid = known[command & 0xFF, identity]

    monkeypatch.setattr(quota, "libc_call", call)
    return known


def test_the_least_of_all_counts(kernel: dict[tuple[int, int], tuple[int, int, int]], tmp_path: Path) -> None:
    storage, user, group = LocalStorage(tmp_path), (0, os.geteuid()), (1, tmp_path.stat().st_gid)
    free = storage.free_space()
    assert quota.quota_left(str(tmp_path)) is None
    kernel[user] = 100, 2400, VALID
    assert quota.quota_left(str(tmp_path)) == 100 * 1024 - 2400 == storage.free_space()
    kernel[group] = 10, 240, VALID
    assert storage.free_space() == 10 * 1024 - 240
    kernel[group] = 10, 20_000, VALID
    assert storage.free_space() == 0
    kernel[group] = kernel[user] = 1 << 50, 0, VALID
    assert abs(storage.free_space() - free) < 1 << 30, "what there is not, no quota gives"


@pytest.mark.parametrize("told", [(0, 5000, VALID), (10, 0, 0)], ids=["no limit", "not valid"])
def test_what_is_no_limit(
    told: tuple[int, int, int], kernel: dict[tuple[int, int], tuple[int, int, int]], tmp_path: Path
) -> None:
    kernel[0, os.geteuid()] = told
    assert quota.quota_left(str(tmp_path)) is None


def test_a_real_kernel_is_asked(tmp_path: Path) -> None:
    left = quota.quota_left(str(tmp_path))
    assert left is None or left >= 0
    with pytest.raises(FileNotFoundError):
        quota.quota_left(str(tmp_path / "none"))
