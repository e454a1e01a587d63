"""The order of one pass: the index batches of a sampler, drawn as PyTorch draws them, counted, and found again.

A pass that continues puts the generators back to where they were when it began, runs the sampler again from there
without loading anything, and compares a running digest of the indices. Nothing about how a sampler works inside needs
to be known.

PyTorch's own samplers draw from the global generator of PyTorch with their first index, and never later, so that
prefetching changes nothing. Other samplers may draw from any global generator while they run, which would mix with the
training's draws depending on how far workers prefetch: they get a `Course` of their own.

The draws come where plain PyTorch has them without workers: the base seed with ``iter(loader)``, the rest with the
first batch. What others draw in between (a second loader that is zipped with this one) is part of the position. Only
one thing depends on workers, here as in PyTorch: a `torch.Generator` that is given to two samplers that run at the same
time and draw from it when others are under way already, since workers have it drawn from ahead of time.
"""

from __future__ import annotations

import struct
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import xxhash
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from milepost.core.leaves import digest
from milepost.errors import LoaderError
from milepost.torch.fetch import Tag
from milepost.training.feeds_checks import Position, capture_generators, restore_generators
from milepost.training.generators import find_generators
from milepost.training.rng import Course, derive, libraries

_OWN = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
_END = object()


class _Mark(NamedTuple):
    """What is known once an index batch is drawn: a digest of all so far, and where that left the generators."""

    digest: int
    generators: Mapping[str, object]


class Order:
    """The index batches of one pass over `loader`, for its iterator to take. First comes `begin` or `resume`.

    Args:
        loader: a loader over a map-style dataset.
        salt: mixed into the seed of the pass.
        tagged: give a `Tag` for each batch instead of bare indices.

    """

    def __init__(self, loader: DataLoader[Any], *, salt: int, tagged: bool) -> None:
        self._loader, self.salt, self._tagged = loader, salt, tagged
        self._sampler: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        self._generators = find_generators(
            {"generator": loader.generator, "sampler": self._sampler}, skip=[loader.dataset]
        )
        self.twin = torch.Generator()
        """Gives the loader's iterator the base seed that was drawn here, so that it draws from nowhere else."""
        self.over = False
        self._handed = 0
        self._peeked: deque[object] = deque()  # drawn, and not given to the loader's iterator yet
        self._marks: deque[_Mark] = deque()  # of what was drawn and not handed out yet
        self._between: dict[str, object] | None = None  # who was drawn from between the beginning and the first index
        self._ended = False

    @property
    def name(self) -> str:
        """The classes of the sampler and of the samplers in it."""
        return " of ".join(type(sampler).__qualname__ for sampler in _chain(self._sampler))

    @property
    def epochs(self) -> list[int]:
        """The epochs that the distributed samplers in it are set to: they decide the order."""
        return [sampler.epoch for sampler in _chain(self._sampler) if isinstance(sampler, DistributedSampler)]

    @property
    def paths(self) -> list[str]:
        """Where the generators are that the loader and the sampler hold."""
        return list(self._generators)

    # -- beginning ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start a new pass: draws from the generators what ``iter(loader)`` would."""
        self._start = self._capture_all()
        states = {library.name: digest(library.capture()) for library in libraries()}
        base = self._base_seed()
        self._seed = derive(base, self.salt)
        self._seeds = {name: derive(base, state) for name, state in states.items()}
        self._open()

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Start where `position` was `saved`; the global generators stay as they are.

        Raises:
            LoaderError: the sampler gives other indices than it gave then.

        """
        self._seed, self._seeds, self.salt = saved["seed"], dict(saved["seeds"]), saved["salt"]
        self._handed, self.over = saved["done"], saved["over"]
        self._start = saved["start"]
        if self.over:
            restore_generators(self._generators, saved["moved"])
            return
        program = torch.default_generator.get_state()
        try:
            restore_generators(self._all, self._start)
            self._base_seed()
            self._open()
            if saved["between"] is not None:
                restore_generators(self._all, saved["between"])
                self._skip(saved["done"], saved["digest"])
                self._between = saved["between"]
        finally:
            torch.default_generator.set_state(program)
        restore_generators(self._generators, saved["moved"])

    @property
    def _all(self) -> dict[str, object]:
        return {"torch": torch.default_generator, **self._generators}

    def _capture_all(self) -> dict[str, object]:
        return capture_generators(self._all)

    def _base_seed(self) -> int:
        """What `_BaseDataLoaderIter.__init__` draws; each pass anew, where a persistent iterator would only once."""
        source = torch.default_generator if self._loader.generator is None else self._loader.generator
        self.twin.set_state(source.get_state())
        return int(torch.empty((), dtype=torch.int64).random_(generator=source).item())

    def _open(self) -> None:
        self._course = nullcontext() if _is_own(self._sampler) else Course(self._seeds)
        with self._course:
            self._iterator = iter(self._sampler)
        self._first = self._before = self._done = self._last = _Mark(0, self._capture_all())
        self._taken = 0

    def _skip(self, done: int, expected: int) -> None:
        self._draw()
        for _ in range(done):
            if not self._peeked:
                break
            self._peeked.popleft()
            self._taken += 1
            self._advance()
            if self._taken < done:
                self._draw()
        if self._taken < done or self._digest_of(done) != expected:
            raise LoaderError(
                f"{self.name} gives other indices than before the save",
                where=f"DataLoader over {type(self._loader.dataset).__qualname__}",
                expected=f"the indices of the first {max(done, 1)} batches as they were",
                found=f"an end after {self._taken}" if self._taken < done else "other indices",
                hint="it draws from somewhere milepost cannot see, or counts its passes: keep its generator in an "
                "attribute, and let set_epoch say which pass it is",
            )

    # -- going on -----------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        if self._ended:
            return
        if self._between is None:
            self._between = self._moved(self._all)
        with self._course:
            indices = next(self._iterator, _END)
        states = capture_generators(self._generators) if self._generators else {}
        if indices is _END:
            self._ended = True
            self._last = _Mark(self._last.digest, states)
            return
        self._last = _Mark(xxhash.xxh3_64_intdigest(_bytes(indices), self._last.digest), states)
        if self._taken == 0 and not self._peeked:
            self._first = self._last
        self._peeked.append(indices)
        self._marks.append(self._last)

    def __iter__(self) -> Order:
        return self

    def __next__(self) -> object:
        if not self._peeked:
            self._draw()
        if not self._peeked:
            raise StopIteration
        indices, number = self._peeked.popleft(), self._taken
        self._taken += 1
        return Tag(self._seed, number, indices) if self._tagged else indices

    def _advance(self) -> None:
        self._before, self._done = self._done, self._marks.popleft()

    def hand_out(self) -> None:
        """Count a batch that was handed out."""
        self._handed += 1
        self._advance()

    def abandon(self) -> None:
        """Leave the pass where it is.

        What was drawn ahead for workers goes back into the sampler's generators, so that the next pass does not
        depend on how many workers there are. A generator that somebody else drew from meanwhile stays.
        """
        if self.over or not self._generators or self._between is None:
            return
        target = self._done if self._handed else self._first
        moved = self._moved(self._generators)
        back = {path: state for path, state in target.generators.items() if path not in moved}
        restore_generators(self._generators, back)
        self._last = _Mark(self._last.digest, {**self._last.generators, **back})

    def _moved(self, generators: Mapping[str, object]) -> dict[str, object]:
        """Those of `generators` that somebody else drew from since the sampler did last, and their states."""
        now = capture_generators(generators)
        return {path: state for path, state in now.items() if digest(state) != digest(self._last.generators[path])}

    # -- where it is --------------------------------------------------------------------------------------------------

    def _digest_of(self, done: int) -> int:
        """Of the first `done` batches; of the first one if none is done, since it was drawn already."""
        if done == 0:
            return self._first.digest
        return self._done.digest if done == self._handed else self._before.digest

    def position(self, done: int) -> Position:
        """What `resume` needs when `done` batches are done."""
        return {
            "done": done,
            "over": self.over,
            "salt": self.salt,
            "seed": self._seed,
            "seeds": dict(self._seeds),
            "start": {} if self.over else self._start,
            "between": None if self.over else self._between,
            "digest": 0 if self.over else self._digest_of(done),
            "moved": capture_generators(self._generators) if self.over else self._moved(self._generators),
        }


def _chain(sampler: Any) -> Iterator[Any]:
    seen: list[Any] = []
    while sampler is not None and not any(sampler is earlier for earlier in seen):
        yield sampler
        seen.append(sampler)
        inner = (getattr(sampler, name, None) for name in ("sampler", "batch_sampler", "base_sampler"))
        sampler = next((one for one in inner if hasattr(one, "__iter__")), None)


def _is_own(sampler: Any) -> bool:
    if type(sampler) is BatchSampler:
        return _is_own(sampler.sampler)
    return type(sampler) in _OWN and getattr(sampler, "generator", None) is not torch.default_generator


def _bytes(indices: Any) -> bytes:
    if type(indices) is list:
        try:
            return array("q", indices).tobytes()
        except (TypeError, OverflowError):  # not all are integers
            return struct.pack("<Q", digest(indices))
    return struct.pack("<Q", digest(indices))
