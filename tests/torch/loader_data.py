"""Datasets, samplers and the little training that the loader tests share. At module level, so that spawned workers
find them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from milepost.training.feeds import Feed, feed_for
from milepost.training.rng import GlobalRng

LENGTH = 17


class Jitter:
    """A transform with a generator of its own."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def __call__(self) -> float:
        return self.generator.normal()


class Everything(Dataset[torch.Tensor]):
    """Draws from every global generator and from generators of every kind that it holds.

    Without `own_torch` it can be sent to a spawned worker, which PyTorch cannot do with a `torch.Generator`.
    """

    def __init__(self, *, own_torch: bool = True) -> None:
        self.torch = torch.Generator().manual_seed(5) if own_torch else None
        self.random = random.Random(6)
        self.state = np.random.RandomState(7)
        bits = (np.random.PCG64(1), np.random.MT19937(2), np.random.Philox(3), np.random.SFC64(4))
        self.transforms = [Jitter(np.random.Generator(bit)) for bit in bits]

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = [random.random(), random.gauss(0, 1), np.random.randn(), torch.randn(()).item()]
        drawn += [torch.rand((), generator=self.torch).item(), self.random.random(), self.state.randn()]
        drawn += [transform() for transform in self.transforms]
        return torch.tensor([index, *drawn], dtype=torch.float64)


class Recording(Dataset[int]):
    """Appends the index of each item it loads to a file: what was loaded, whichever process did."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> int:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{index}\n".encode())
        os.close(file)
        return index

    def loaded(self) -> list[int]:
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []


class Drawing(Sampler[int]):
    """Draws from a global generator before each index."""

    def __init__(self, draw: Callable[[], float], length: int = LENGTH) -> None:
        self.draw, self.length = draw, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.length):
            yield int(self.draw() * LENGTH)


class Eager(Sampler[int]):
    """Draws all at once, when it is asked for an iterator, from a generator it holds."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(9)

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self) -> Iterator[int]:
        return iter(self.rng.permutation(LENGTH).tolist())


class Pairs(Sampler[list[int]]):
    """A batch sampler with batches of two sizes, shuffled by Python's generator."""

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(LENGTH))
        random.shuffle(order)
        for number in range(6):
            yield order[3 * number : 3 * number + 2 + number % 2]


def draw_torch() -> float:
    return torch.rand(()).item()


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def plain(value: Any) -> Any:
    """What can be compared with ``==``, bit for bit."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def assert_plain(value: Any) -> None:
    """What a manifest can hold, and arrays."""
    if isinstance(value, dict):
        assert all(isinstance(key, (str, int)) for key in value)
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            assert_plain(item)
    else:
        assert value is None or type(value) in (str, int, float, bool, np.ndarray)


def training_draws() -> list[float]:
    """What dropout and its like draw; an odd count of normal numbers leaves half a pair in each generator."""
    return [random.random(), random.gauss(0, 1), np.random.randn(), torch.rand(()).item(), torch.randn(()).item()]


def drain(feed: Feed) -> Iterator[Any]:
    while True:
        try:
            yield feed.next()
        except StopIteration:
            return


class Snapshot:
    """What a checkpoint holds of the data: taken between two batches."""

    def __init__(self, feed: Feed, done: int, rng: GlobalRng) -> None:
        self.position, self.rng = feed.position(done), rng.capture()


Trace = list[list[Any]]


def train(loader: Any, passes: int, *, stop: int | None = None) -> tuple[Trace, list[list[Snapshot]]]:
    """Read `passes` passes, `stop` batches of each; returns what was seen and a snapshot before each batch and at the
    end.
    """
    feed, rng = feed_for(loader), GlobalRng()
    trace: Trace = []
    snapshots: list[list[Snapshot]] = []
    for _ in range(passes):
        feed.begin(None)
        seen, taken = [], []
        while True:
            taken.append(Snapshot(feed, len(seen), rng))
            if len(seen) == stop:
                break
            try:
                batch = feed.next()
            except StopIteration:
                taken.append(Snapshot(feed, len(seen), rng))
                break
            seen.append([plain(batch), training_draws()])
        trace.append(seen)
        snapshots.append(taken)
    feed.close()
    return trace, snapshots


def resume(loader: Any, snapshot: Snapshot, done: int, passes: int, *, stop: int | None = None) -> Trace:
    """Continue at `snapshot` in what is as good as a new process, with random states of its own."""
    seed_everything(12345)
    feed, rng = feed_for(loader), GlobalRng()
    feed.begin(snapshot.position)
    rng.restore(snapshot.rng)
    trace: Trace = []
    for number in range(passes):
        if number:
            feed.begin(None)
        seen: list[Any] = []
        while stop is None or len(seen) + (done if number == 0 else 0) < stop:
            try:
                batch = feed.next()
            except StopIteration:
                break
            seen.append([plain(batch), training_draws()])
        trace.append(seen)
    feed.close()
    return trace


class Pids(Dataset[int]):
    """Gives the id of the process that loads it."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        return os.getpid()


class LazyRng(Dataset[float]):
    """Makes its generator when it first needs it, as the advice for workers has it."""

    rng: np.random.Generator | None = None

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> float:
        if self.rng is None:
            self.rng = np.random.default_rng(torch.initial_seed())
        return index + self.rng.random()


def rng_per_worker(worker: int) -> None:
    """A worker_init_fn that gives each worker's dataset a generator seeded by the worker."""
    info = get_worker_info()
    assert info is not None
    info.dataset.rng = np.random.default_rng(info.seed)  # type: ignore[attr-defined]
