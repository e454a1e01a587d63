"""A pass that continues gives the very batches that an uninterrupted one gives, whatever the workers before and
after.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from loader_data import (
    LENGTH,
    Drawing,
    Eager,
    Everything,
    LazyRng,
    Pairs,
    assert_plain,
    drain,
    draw_torch,
    plain,
    resume,
    rng_per_worker,
    seed_everything,
    train,
    training_draws,
)
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from milepost.training.feeds import feed_for
from milepost.training.rng import GlobalRng

WORKERS = (0, 2, 3)
PASSES = 2

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # three workers on two cores


def _loader(workers: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(Everything(), num_workers=workers, **options)


def _one_generator(workers: int, generator: torch.Generator) -> DataLoader[Any]:
    sampler = SubsetRandomSampler(range(3, 14), generator=generator)
    return _loader(workers, batch_size=3, generator=generator, sampler=sampler)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(8)


CASES: dict[str, Callable[[int], DataLoader[Any]]] = {
    "in order, drop_last": lambda n: _loader(n, batch_size=4, drop_last=True),
    "shuffle": lambda n: _loader(n, batch_size=5, shuffle=True),
    "shuffle with a generator": lambda n: _loader(n, batch_size=5, shuffle=True, generator=_generator()),
    "no batching": lambda n: _loader(n, batch_size=None, sampler=RandomSampler(range(5))),
    "weighted": lambda n: _loader(n, batch_size=6, sampler=WeightedRandomSampler([1.0] * LENGTH, 20)),
    "replacement, own generator": lambda n: _loader(
        n, batch_size=20, sampler=RandomSampler(range(LENGTH), replacement=True, num_samples=90, generator=_generator())
    ),
    "subset, one generator": lambda n: _one_generator(n, _generator()),
    "distributed": lambda n: _loader(
        n, batch_size=3, sampler=DistributedSampler(range(LENGTH), num_replicas=2, rank=1)  # type: ignore[arg-type]
    ),
    "sampler drawing from Python": lambda n: _loader(n, batch_size=6, sampler=Drawing(random.random)),
    "sampler drawing from NumPy": lambda n: _loader(n, batch_size=6, sampler=Drawing(np.random.rand)),
    "sampler drawing from PyTorch": lambda n: _loader(n, batch_size=6, sampler=Drawing(draw_torch)),
    "sampler that draws at once": lambda n: _loader(n, batch_size=6, sampler=Eager()),
    "batch sampler": lambda n: _loader(n, batch_sampler=Pairs()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_same_batches_and_same_training_draws_at_every_split_and_worker_count(case: str) -> None:
    runs = {}
    for workers in WORKERS:
        seed_everything(1)
        runs[workers] = train(CASES[case](workers), PASSES)
    trace, snapshots = runs[0]
    assert len(trace[0]) > 2
    assert trace[0] != trace[1]
    for workers in WORKERS[1:]:
        assert runs[workers][0] == trace
        # Positions are the same whoever saved them, so resuming from one run's stands for all.
        assert [[plain(s.position) for s in taken] for taken in runs[workers][1]] == [
            [plain(s.position) for s in taken] for taken in snapshots
        ]
    for after in WORKERS:
        for done, snapshot in enumerate(snapshots[0]):
            assert_plain(snapshot.position)
            done = min(done, len(trace[0]))  # the last snapshot is of the pass that is over
            passes = PASSES if done % 2 else 1
            expected = [trace[0][done:], *trace[1:passes]]
            assert resume(CASES[case](after), snapshot, done, passes) == expected, (after, done)


@pytest.mark.parametrize("done", range(5))
def test_in_a_later_pass(done: int) -> None:
    seed_everything(1)
    case = CASES["shuffle with a generator"]
    trace, snapshots = train(case(2), 3)
    assert resume(case(0), snapshots[1][done], done, 2) == [trace[1][done:], trace[2]]


@pytest.mark.parametrize(
    "case", ["replacement, own generator", "shuffle with a generator", "sampler that draws at once"]
)
def test_passes_that_are_left_early_do_not_depend_on_how_far_workers_were_ahead(case: str) -> None:
    stop = 2 if case != "shuffle with a generator" else 4  # 4 of 4: workers have met the end, the loop has not
    seed_everything(1)
    trace, snapshots = train(CASES[case](0), 3, stop=stop)
    seed_everything(1)
    assert train(CASES[case](3), 3, stop=stop)[0] == trace
    for done in range(stop + 1):
        rest = resume(CASES[case](2), snapshots[1][done], done, 2, stop=stop)
        assert rest == [trace[1][done:], trace[2]]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("init", [None, rng_per_worker])
def test_generators_made_in_the_worker_or_while_loading(workers: int, init: Callable[[int], None] | None) -> None:
    def loader(number: int) -> DataLoader[Any]:
        return DataLoader(LazyRng(), 4, shuffle=True, num_workers=number, worker_init_fn=init)

    seed_everything(1)
    trace, snapshots = train(loader(0), 2)
    for done in (0, 1, 3, 5):
        assert resume(loader(workers), snapshots[0][done], done, 2) == [trace[0][done:], trace[1]]


def test_the_last_batch_again_when_an_inner_loop_saved() -> None:
    for workers in (0, 2):
        seed_everything(1)
        feed = feed_for(CASES["shuffle"](workers))
        feed.begin(None)
        batches = [plain(feed.next()) for _ in range(3)]
        positions = [feed.position(3), feed.position(2)]
        feed.close()
        for position, expected in zip(positions, ([], batches[2:]), strict=True):
            again = feed_for(CASES["shuffle"](0))
            again.begin(position)
            assert plain(again.position(3 - len(expected))) == plain(position)
            assert [plain(again.next()) for _ in expected] == expected


@pytest.mark.parametrize("shared", [False, True])
def test_zipped_loaders_are_as_in_plain_pytorch_and_continue(shared: bool) -> None:
    def loaders(workers: int) -> list[DataLoader[Any]]:
        generator = _generator() if shared else None
        items = TensorDataset(torch.arange(LENGTH))
        return [DataLoader(items, size, shuffle=True, num_workers=workers, generator=generator) for size in (4, 5)]

    seed_everything(1)
    expected = [[plain(pair), training_draws()] for pair in zip(*loaders(0), strict=False)]

    for workers in (0,) if shared else (0, 2):  # workers that draw ahead from one generator mix its draws up
        seed_everything(1)
        feeds, rng = [feed_for(loader) for loader in loaders(workers)], GlobalRng()
        for feed in feeds:
            feed.begin(None)
        snapshots, seen = [], []
        while len(seen) < len(expected):
            # The first one asks, while the second one is done with as many batches.
            snapshots.append(([feed.position(len(seen)) for feed in feeds], rng.capture()))
            seen.append([plain([feed.next() for feed in feeds]), training_draws()])
        assert seen == expected
        for done, (positions, state) in enumerate(snapshots):
            seed_everything(12345)
            again = [feed_for(loader) for loader in loaders(0 if shared else 2 - workers)]
            for feed, position in zip(again, positions, strict=True):
                feed.begin(position)
            rng.restore(state)
            rest = [[plain([feed.next() for feed in again]), training_draws()] for _ in expected[done:]]
            assert rest == expected[done:], (workers, done)
            for feed in again:
                feed.close()


def test_a_second_restart_continues_the_first() -> None:
    seed_everything(1)
    trace, snapshots = train(CASES["batch sampler"](0), 1)
    feed = feed_for(CASES["batch sampler"](2))
    feed.begin(snapshots[0][2].position)
    feed.next()
    position = feed.position(3)
    feed.close()
    assert plain(position) == plain(snapshots[0][3].position)
    again = feed_for(CASES["batch sampler"](0))
    again.begin(position)
    assert plain(again.next()) == trace[0][3][0]


def test_where_generators_of_the_dataset_stand_after_the_restart_does_not_matter() -> None:
    seed_everything(1)
    case = CASES["shuffle"]
    trace, snapshots = train(case(0), 3)
    loader = case(2)
    loader.dataset.state.rand(5)  # type: ignore[attr-defined]
    assert resume(loader, snapshots[0][2], 2, 3) == [trace[0][2:], *trace[1:]]


def test_no_two_batches_and_no_two_passes_are_augmented_alike() -> None:
    seed_everything(1)
    feed = feed_for(_loader(2, batch_size=4))
    drawn: list[float] = []
    for _ in range(2):
        feed.begin(None)
        drawn += [number for batch in drain(feed) for number in batch[:, 1:].flatten().tolist()]
    assert len(drawn) == len(set(drawn)) == 2 * LENGTH * 11


@pytest.mark.parametrize("case", ["shuffle", "batch sampler", "replacement, own generator"])
def test_continuing_leaves_the_global_random_states_as_they_are(case: str) -> None:
    seed_everything(1)
    _, snapshots = train(CASES[case](0), 1)
    for snapshot in snapshots[0]:
        seed_everything(99)
        before = plain(GlobalRng().capture())
        feed = feed_for(CASES[case](0))
        feed.begin(snapshot.position)
        assert plain(GlobalRng().capture()) == before


def test_a_generator_that_training_draws_from_too() -> None:
    def loader(generator: torch.Generator) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(LENGTH)), 4, shuffle=True, generator=generator)

    generator = _generator()
    seed_everything(1)
    expected = [[plain(batch), torch.rand(2, generator=generator).tolist()] for batch in loader(generator)]
    after = plain(generator.get_state())

    generator = _generator()
    seed_everything(1)
    feed = feed_for(loader(generator))
    feed.begin(None)
    positions, seen = [feed.position(0)], []
    for batch in drain(feed):
        seen.append([plain(batch), torch.rand(2, generator=generator).tolist()])
        positions.append(feed.position(len(seen)))
    positions.append(feed.position(len(seen)))
    assert seen == expected
    assert plain(generator.get_state()) == after
    for done, position in enumerate(positions[1:], 1):  # before the first batch it depends on the global state too
        generator = torch.Generator().manual_seed(1000)
        again = feed_for(loader(generator))
        again.begin(position)
        assert [[plain(batch), torch.rand(2, generator=generator).tolist()] for batch in drain(again)] == expected[
            done:
        ]
        assert plain(generator.get_state()) == after


def test_different_seeds_of_a_transform_augment_differently() -> None:
    def batch(seed: int) -> Any:
        loader = CASES["in order, drop_last"](0)
        loader.dataset.transforms[0].generator = np.random.default_rng(seed)  # type: ignore[attr-defined]
        seed_everything(1)
        return train(loader, 1, stop=1)[0]

    assert batch(0) == batch(0) != batch(1)
