"""Verifying a file that is larger than the memory for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milepost.core.layout import Span
from milepost.errors import DamagedError
from milepost.folder.checkpoint import READ_ROOM, Checkpoint
from milepost.folder.snapshot import IO_BLOCK
from milepost.folder.verify import verify_fully
from milepost.storage.local import LocalStorage
from milepost.storage.pages import Pages

ROWS = 5 * IO_BLOCK // 4096


@pytest.fixture
def large(start_job: Callable[..., Any], tmp_path: Path) -> Path:
    """A checkpoint with a file of five blocks and a bit, of two tensors that do not end where blocks do."""
    noise = np.random.default_rng(0).integers(0, 1 << 20, (ROWS, 1024), np.int32)
    job = start_job()
    job.save(1, {"model": {"a": noise[:5000], "b": noise[5000:], "c": np.ones(3, np.float32)}})
    return tmp_path / "run" / "step-00000001"


def flip(file: Path, offset: int) -> None:
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte[0] ^ 1]))


def test_a_file_larger_than_the_memory_for_it_is_checked_to_its_last_byte(large: Path) -> None:
    file = large / "model.safetensors"
    assert file.stat().st_size > READ_ROOM + IO_BLOCK
    checkpoint = Checkpoint(LocalStorage(large))
    seen: list[int] = []
    checkpoint.read_file(file.name, Pages(READ_ROOM).view, None, lambda start, block: seen.append(len(block)))
    assert sum(seen) == file.stat().st_size
    assert max(seen) == IO_BLOCK


@pytest.mark.parametrize("block", range(6))
def test_one_bit_in_any_block_is_found(large: Path, block: int) -> None:
    file = large / "model.safetensors"
    flip(file, block * IO_BLOCK + 4100)
    (finding,) = verify_fully(Checkpoint(LocalStorage(large)))
    assert isinstance(finding.problem, DamagedError)
    assert "not what was saved" in finding.problem.message


def test_what_is_read_to_a_place_is_what_was_saved(large: Path) -> None:
    checkpoint = Checkpoint(LocalStorage(large))
    parts: dict[str, bytearray] = {}

    def place(key: str, span: Span) -> memoryview | None:
        if key == "b":
            return None
        parts[key] = bytearray(span.nbytes)
        return memoryview(parts[key])

    checkpoint.read_file("model.safetensors", Pages(READ_ROOM).view, place)
    assert sorted(parts) == ["a", "c"]
    for key, part in parts.items():
        assert part == checkpoint[f"model/{key}"].tobytes()


def test_every_tensor_that_was_changed_is_named(large: Path) -> None:
    file = large / "model.safetensors"
    for offset in (4096, file.stat().st_size - 1):
        flip(file, offset)
    (finding,) = verify_fully(Checkpoint(LocalStorage(large)))
    assert finding.problem is not None
    assert finding.problem.message == "the bytes of 'a', 'c' are not what was saved"
