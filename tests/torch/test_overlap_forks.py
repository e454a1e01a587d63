"""Children forked while there is staging memory, as data-loader workers are: neither side harms the other."""

from __future__ import annotations

import ctypes
import gc
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_jobs import (
    Job,
    Trial,
    check_same,
    folder_fixture,  # noqa: F401
    in_child,
    network,
    one_thread,  # noqa: F401
    script_of,
    simple,
)
from torch.utils.data import DataLoader, Dataset

import milepost
from milepost.storage.pages import Pages

SIZE = 8 << 20


class Cycle:
    """Garbage that goes when the collector comes, not before."""

    def __init__(self) -> None:
        self.pages = Pages(SIZE)
        self.itself = self


def test_a_child_that_collects_what_the_parent_left_frees_no_other_memory() -> None:
    """What went wrong once: the range was not mapped in the child, so other memory came there, and was unmapped with it."""
    gc.collect()
    gc.disable()
    try:
        cycles = [Cycle() for _ in range(4)]
        cycles[0].pages.view[:] = b"x" * SIZE
        del cycles

        def child() -> None:
            others = [mmap.mmap(-1, SIZE) for _ in range(8)]
            gc.collect()
            for number, other in enumerate(others):
                other[:] = bytes([number]) * SIZE
            assert [other[SIZE // 2] for other in others] == list(range(8))

        assert in_child(child) == 0
    finally:
        gc.enable()
        gc.collect()


def test_a_child_finds_zeros_and_the_parent_its_own() -> None:
    pages = Pages(SIZE)
    pages.view[:] = b"x" * SIZE

    def child() -> None:
        assert bytes(pages.view[:4096]) == bytes(4096)
        assert ctypes.string_at(pages.address, 16) == bytes(16)
        pages.view[:] = b"y" * SIZE

    assert in_child(child) == 0
    assert bytes(pages.view) == b"x" * SIZE


class Collects(Dataset[Any]):
    """Workers that collect garbage and take memory all the time."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        gc.collect()
        blocks = [mmap.mmap(-1, SIZE) for _ in range(3)]
        for block in blocks:
            block[: 1 << 12] = b"z" * (1 << 12)
        return torch.randn(8) + index, index % 2


def job(workers: int = 2) -> Job:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data = DataLoader(Collects(), batch_size=4, num_workers=workers)
    return Job({"model": model, "optimizer": optimizer}, simple(model, optimizer), data=data)


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Garbage stays until somebody collects it, and what other tests imported is not looked through for it."""
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def test_workers_that_fork_while_runs_come_and_go(folder: Path, forgetful: None) -> None:
    right = Trial(folder / "whole").play(script_of(lambda: job(0), epochs=2))
    for number in range(3):  # runs that ended are garbage that workers inherit
        directory = folder / str(number)
        Trial(directory, ("trained", 4 + number), every=milepost.Every(steps=1)).play(script_of(job, epochs=2))
        second = Trial(directory, every=milepost.Every(steps=1)).play(script_of(job, epochs=2))
        check_same(second.facts, right.facts)
