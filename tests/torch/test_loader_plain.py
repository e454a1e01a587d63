"""What milepost leaves as PyTorch has it: the order, the training's random states, the options of a loader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loader_data import LENGTH, Everything, Pids, Recording, drain, plain, seed_everything, train, training_draws
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

from milepost.training.feeds import feed_for
from milepost.training.rng import GlobalRng

ITEMS = TensorDataset(torch.arange(LENGTH), torch.arange(LENGTH) * 0.5)


class BySize(Sampler[list[int]]):
    """Draws nothing: items of like size together."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 5], [1], [2, 7, 4], [3]])


def _own_generator(workers: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    return DataLoader(ITEMS, 5, shuffle=True, num_workers=workers, generator=generator)


LOADERS: dict[str, Callable[[int], DataLoader[Any]]] = {
    "in order": lambda n: DataLoader(ITEMS, 4, num_workers=n),
    "shuffle": lambda n: DataLoader(ITEMS, 4, shuffle=True, num_workers=n),
    "shuffle, drop_last": lambda n: DataLoader(ITEMS, 4, shuffle=True, drop_last=True, num_workers=n),
    "generator": _own_generator,
    "weighted": lambda n: DataLoader(ITEMS, 4, sampler=WeightedRandomSampler(np.arange(17.0), 30), num_workers=n),
    "replacement": lambda n: DataLoader(ITEMS, 40, sampler=RandomSampler(ITEMS, True, 100), num_workers=n),
    "subset sampler": lambda n: DataLoader(ITEMS, 2, sampler=SubsetRandomSampler([1, 5, 3]), num_workers=n),
    "subset": lambda n: DataLoader(Subset(ITEMS, [3, 1, 2, 9]), 2, shuffle=True, num_workers=n),
    "no batching": lambda n: DataLoader(ITEMS, None, shuffle=True, num_workers=n),
    "batch sampler": lambda n: DataLoader(
        ITEMS, batch_sampler=BatchSampler(SequentialSampler(ITEMS), 3, True), num_workers=n
    ),
    "batch sampler of one's own": lambda n: DataLoader(ITEMS, batch_sampler=BySize(), num_workers=n),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("case", LOADERS)
def test_order_and_random_states_of_plain_pytorch(case: str, workers: int) -> None:
    seed_everything(1)
    loader = LOADERS[case](workers)
    expected = [[[plain(batch), training_draws()] for batch in loader] for _ in range(3)]
    state = plain(GlobalRng().capture())

    seed_everything(1)
    loader = LOADERS[case](workers)
    trace, _ = train(loader, 3)
    assert trace == expected
    assert plain(GlobalRng().capture()) == state
    assert feed_for(loader).length == len(loader) == len(trace[0])


def test_training_draws_the_same_whether_or_not_the_data_is_augmented() -> None:
    seed_everything(1)
    expected = [training_draws() for _ in DataLoader(ITEMS, 5, shuffle=True)]
    for workers in (0, 2):
        seed_everything(1)
        trace, _ = train(DataLoader(Everything(), 5, shuffle=True, num_workers=workers), 1)
        assert [draws for _, draws in trace[0]] == expected


def test_persistent_workers_draw_what_workers_that_are_not_would() -> None:
    # Plain PyTorch draws a base seed only when workers start, so that there the numbers would depend on restarts.
    traces = []
    for persistent in (False, True):
        seed_everything(1)
        loader = DataLoader(Everything(), 5, shuffle=True, num_workers=2, persistent_workers=persistent)
        traces.append(train(loader, 3)[0])
    assert traces[0] == traces[1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_what_is_done_is_not_loaded_again(tmp_path: Path, workers: int, persistent: bool) -> None:
    persistent = persistent and workers > 0
    for done in range(5):
        dataset = Recording(tmp_path / f"{workers}-{persistent}-{done}")
        loader = DataLoader(dataset, 4, shuffle=True, num_workers=workers, persistent_workers=persistent)
        feed = feed_for(loader)
        seed_everything(1)
        feed.begin(None)
        position = feed.position(0)
        assert dataset.loaded() == []
        before = [int(index) for _ in range(done) for index in feed.next()]  # type: ignore[attr-defined]
        position = feed.position(done)
        feed.close()
        del feed  # persistent workers, still loading ahead, end with it
        dataset.path.unlink(missing_ok=True)

        again = feed_for(DataLoader(dataset, 4, shuffle=True, num_workers=workers, persistent_workers=persistent))
        again.begin(position)
        rest = [int(index) for batch in drain(again) for index in batch]
        assert sorted(before + rest) == list(range(LENGTH))
        assert sorted(dataset.loaded()) == sorted(rest)


class Several(Dataset[int]):
    """Loads whole batches."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        raise AssertionError("the whole batch is asked for")

    def __getitems__(self, indices: list[int]) -> list[int]:
        return [10 * index for index in indices]


@pytest.mark.parametrize("workers", [0, 2])
def test_datasets_that_load_whole_batches(workers: int) -> None:
    feed = feed_for(DataLoader(Several(), 3, num_workers=workers, collate_fn=list))
    feed.begin(None)
    assert list(drain(feed)) == [[0, 10, 20], [30, 40, 50], [60, 70]]


class Opened(Dataset[Any]):
    """Usable once `worker_init_fn` has opened it."""

    handle: int | None = None

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        info = get_worker_info()
        assert info is not None
        assert info.dataset is self
        return self.handle, info.num_workers, index


def _open(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.handle = 100 + worker  # type: ignore[attr-defined]


def test_worker_init_fn_sees_the_users_dataset() -> None:
    feed = feed_for(DataLoader(Opened(), 1, num_workers=2, worker_init_fn=_open, collate_fn=list))
    feed.begin(None)
    assert list(drain(feed)) == [[(100 + index % 2, 2, index)] for index in range(6)]


def test_base_seed_of_workers_is_that_of_plain_pytorch() -> None:
    class Seeds(Dataset[int]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            info = get_worker_info()
            assert info is not None
            return info.seed

    seed_everything(1)
    expected = [plain(batch) for batch in DataLoader(Seeds(), 1, num_workers=2)]
    seed_everything(1)
    feed = feed_for(DataLoader(Seeds(), 1, num_workers=2))
    feed.begin(None)
    assert [plain(batch) for batch in drain(feed)] == expected


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
@pytest.mark.parametrize("workers", [0, 2])
def test_pin_memory_prefetch_and_timeout_are_kept(workers: int) -> None:
    options: dict[str, Any] = {"prefetch_factor": 4, "timeout": 30} if workers else {}
    loader = DataLoader(ITEMS, 4, shuffle=True, num_workers=workers, pin_memory=True, **options)
    seed_everything(1)
    expected = [plain(batch) for batch in loader]
    seed_everything(1)
    feed = feed_for(loader)
    feed.begin(None)
    assert [plain(batch) for batch in drain(feed)] == expected


class Uneven(Dataset[int]):
    """The first item takes longest."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        time.sleep(0.3 if index == 0 else 0)
        return index


def test_batches_come_in_order_even_where_the_loader_says_otherwise() -> None:
    feed = feed_for(DataLoader(Uneven(), 1, num_workers=2, in_order=False))
    feed.begin(None)
    assert [int(batch) for batch in drain(feed)] == list(range(6))


class Named(DataLoader[Any]):
    """A subclass with a constructor and a method of its own."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(**options)
        self.name = name


def test_subclasses_of_dataloader_that_do_not_iterate_by_themselves() -> None:
    loader = Named("train", dataset=ITEMS, batch_size=6, shuffle=True)
    seed_everything(1)
    expected = [plain(batch) for batch in loader]
    seed_everything(1)
    feed = feed_for(loader)
    feed.begin(None)
    assert [plain(batch) for batch in drain(feed)] == expected


class Failing(Dataset[int]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 5:
            raise ValueError("item 5 is broken")
        return index


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_the_dataset_come_through_and_the_random_states_stay(workers: int) -> None:
    feed = feed_for(DataLoader(Failing(), 2, num_workers=workers))
    feed.begin(None)
    feed.next()
    feed.next()
    before = plain(GlobalRng().capture())
    with pytest.raises(ValueError, match="item 5 is broken"):
        feed.next()
    assert plain(GlobalRng().capture()) == before
    assert list(drain(feed)) == []
    feed.begin(None)
    assert plain(feed.next()) == plain(torch.tensor([0, 1]))
    feed.close()


# -- several passes at a time ------------------------------------------------------------------------------------------


def test_zipped_and_nested_loaders_over_one_dataset_and_one_generator() -> None:
    dataset = Everything()
    generator = torch.Generator().manual_seed(4)

    def loaders(workers: int) -> list[DataLoader[Any]]:
        return [
            DataLoader(dataset, size, shuffle=True, num_workers=workers, generator=generator if size == 5 else None)
            for size in (5, 6)
        ]

    def run(workers: int) -> list[Any]:
        seed_everything(1)
        generator.manual_seed(4)
        outer, inner = (feed_for(loader) for loader in loaders(workers))
        outer.begin(None)
        inner.begin(None)
        seen: list[Any] = [[plain(a), plain(b)] for a, b in zip(drain(outer), drain(inner), strict=False)]
        outer.begin(None)
        for batch in drain(outer):
            inner.begin(None)
            seen.append([plain(batch), [plain(other) for other in drain(inner)]])
        outer.close()
        inner.close()
        return seen

    assert run(0) == run(2)


def test_one_loader_twice_at_the_same_time() -> None:
    loader = DataLoader(Pids(), 4, num_workers=2, persistent_workers=True)
    first, second = feed_for(loader), feed_for(loader)
    first.begin(None)
    second.begin(None)
    pids: list[set[int]] = [set(), set()]
    for pair in zip(drain(first), drain(second), strict=True):
        for known, batch in zip(pids, pair, strict=True):
            known |= set(batch.tolist())
    assert not pids[0] & pids[1]
