"""Loading one batch so that it depends on nothing but the pass's seed, the batch's number and its indices.

A worker process has random generators of its own, and which worker loads which batch depends on how many there are
and where the pass began. So before each batch every generator that the dataset could draw from is seeded anew: the
global ones of Python, NumPy and PyTorch, and those that the dataset, its transforms and the collate function hold.
What is drawn from elsewhere (the system, ``default_rng()`` made anew without a seed, generators inside foreign
libraries) cannot be repeated by anyone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from milepost.training.generators import Finder, Found
from milepost.training.rng import Course, derive, read_generator, seed_all, seed_generator, write_generator


class Tag(NamedTuple):
    """What the sampler gives in place of indices."""

    seed: int
    """Of the pass."""
    number: int
    """Of the batch within the pass, from 0."""
    indices: Any
    """A list for a batch, one index where batching is off."""


class Unopened:
    """Stands in for the dataset and hands tags on as they are: `Fetch` loads, so that seeding and collating belong
    together.
    """

    def __getitem__(self, tag: Tag) -> Tag:
        return tag

    def __getitems__(self, tag: Tag) -> Tag:
        return tag


class Fetch:
    """Stands in for the collate function: seeds, loads, collates.

    A generator that is made while a batch is being loaded (``if self.rng is None: ...``) was seeded from whatever was
    there; it is seeded and the batch loaded once more, so that the first batch of a worker is what it would be
    anywhere else.

    Args:
        dataset: a map-style dataset.
        collate: the collate function.
        batched: whether a tag has a list of indices.
        inside: whether batches are loaded in the training process, whose generators are then put back after each.

    """

    def __init__(self, dataset: Any, collate: Callable[[Any], Any], *, batched: bool, inside: bool) -> None:
        self.dataset, self.collate, self.batched = dataset, collate, batched
        self._finder = Finder({"dataset": dataset, "collate_fn": collate})
        self._course = Course() if inside else None

    def find(self) -> Found:
        """The generators that belong to the dataset and the collate function, by path."""
        return self._finder.find()

    def __call__(self, tag: Tag) -> Any:
        """The batch that `tag` names."""
        if self._course is None:
            return self._fetch(tag, self.find())
        with self._course:
            generators = self.find()
            before = [(generator, read_generator(generator)) for generator in generators.values()]
            try:
                return self._fetch(tag, generators)
            finally:
                for generator, state in before:
                    write_generator(generator, state)

    def _fetch(self, tag: Tag, generators: Found) -> Any:
        _seed(tag, generators)
        batch = self._load(tag.indices)
        now = self.find()
        if now is not generators and now.keys() - generators.keys():
            _seed(tag, now)
            batch = self._load(tag.indices)
        return batch

    def _load(self, indices: Any) -> Any:
        # As torch.utils.data._utils.fetch._MapDatasetFetcher does.
        if not self.batched:
            return self.collate(self.dataset[indices])
        several = getattr(self.dataset, "__getitems__", None)
        return self.collate(several(indices) if several else [self.dataset[index] for index in indices])


def _seed(tag: Tag, generators: Found) -> None:
    seed = derive(tag.seed, tag.number)
    seed_all(seed)
    for path, generator in generators.items():
        seed_generator(generator, derive(seed, path))
