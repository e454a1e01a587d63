"""Data of a JAX job: what comes after a restart is what would have come, whichever loader reads it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grain.python as grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch

import milepost
from milepost.errors import LoaderError

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
COUNT, SIZE, EPOCHS = 14, 3, 3
SERIAL = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)


class Squares:
    """Records for Grain."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: Any) -> np.ndarray[Any, Any]:
        return np.array([index, index**2], np.float32)

    def __repr__(self) -> str:
        return "Squares()"


class Noise(grain.RandomMapTransform):
    def random_map(self, element: Any, rng: np.random.Generator) -> Any:
        return element + rng.random(dtype=np.float32)


def grain_loader(epoch: int, **options: Any) -> Any:
    sampler = grain.IndexSampler(COUNT, grain.ShardOptions(0, 1), shuffle=True, num_epochs=1, seed=epoch)
    return grain.DataLoader(data_source=Squares(), sampler=sampler, operations=[Noise(), grain.Batch(SIZE)], **options)


def grain_map(epoch: int) -> Any:
    return grain.MapDataset.source(Squares()).seed(epoch).shuffle().random_map(Noise()).batch(SIZE)


def tf_pipeline() -> Any:
    data = tf.data.Dataset.range(COUNT).map(lambda one: tf.cast(one, tf.float32))
    return data.shuffle(6, seed=3).batch(SIZE).prefetch(2)


# The data of an epoch. What is made once is made anew in each process.
LOADERS: dict[str, Callable[[], Callable[[int], Iterable[Any]]]] = {
    "grain.DataLoader": lambda: grain_loader,
    "grain.MapDataset": lambda: grain_map,
    "grain.IterDataset": lambda: lambda epoch: grain_map(epoch).to_iter_dataset(),
    "grain, one loader": lambda: _always(grain_loader(5)),
    "tf.data": lambda: _always(tf_pipeline()),
    "torch": lambda: _always(torch.utils.data.DataLoader(np.arange(COUNT), SIZE, shuffle=True)),  # type: ignore[arg-type]
    "numpy": lambda: _always(np.arange(15).reshape(5, 3)),
}


def _always(data: Any) -> Callable[[int], Any]:
    return lambda epoch: data


def train(folder: str, name: str, stop: int | None = None) -> list[Any]:
    """The batches, and the sum that depends on all of them, of one process that begins or continues."""
    torch.manual_seed(0)
    tf.random.set_seed(0)
    data, total, seen = LOADERS[name](), jnp.zeros(()), []
    add = jax.jit(lambda total, batch: total * 0.5 + jnp.asarray(batch, jnp.float32).sum())
    with milepost.Checkpointer(folder, total=total, every=milepost.Every(steps=1), progress=False) as run:
        total = run["total"]
        for epoch in run.epochs(EPOCHS):
            for batch in run.batches(data(epoch)):
                batch = np.asarray(batch)
                total = add(total, batch)
                seen.append((run.progress.step, batch.tolist(), float(total)))
                run.step(total=total)
                if run.progress.step == stop:
                    run.wait()
                    raise InterruptedError
    return seen


@pytest.mark.parametrize("name", LOADERS)
def test_after_a_restart_comes_what_would_have_come(name: str) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        expected = train(f"{folder}/straight", name)
        assert len(expected) == 5 * EPOCHS
        for stop in (1, 4, 5, 7, 10):
            place = f"{folder}/{stop}"
            with pytest.raises(InterruptedError):
                train(place, name, stop)
            found = train(place, name)
            assert found == expected[-len(found) :]
            assert len(found) in (15 - stop, 16 - stop)  # the last save is of this step, or of the one before


ENDLESS: dict[str, Callable[[], Any]] = {
    "grain": lambda: iter(
        grain.MapDataset.source(Squares()).seed(3).shuffle().repeat().batch(SIZE).to_iter_dataset(SERIAL)
    ),
    "tf.data": lambda: tf_pipeline().repeat().as_numpy_iterator(),
}


@pytest.mark.parametrize(("name", "item"), [("grain", True), ("grain", False), ("tf.data", True)])
def test_an_endless_iterator_is_an_item_or_is_read_through_the_run(name: str, item: bool) -> None:
    def go(folder: str, stop: int | None = None) -> list[Any]:
        iterator = ENDLESS[name]()
        seen = []
        items = {"data": iterator} if item else {"rng": np.random.default_rng(3)}
        with milepost.Checkpointer(folder, state=items, every=milepost.Every(steps=1), progress=False) as run:
            batches = iterator if item else iter(run.batches(iterator))
            for _ in run.steps(12):
                seen.append(next(batches).tolist())
                run.step()
                if run.progress.step == stop:
                    run.wait()
                    raise InterruptedError
        return seen

    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        expected = go(f"{folder}/straight")
        assert expected[:5] != expected[5:10]
        with pytest.raises(InterruptedError):
            go(f"{folder}/run", 7)
        found = go(f"{folder}/run")
        assert found == expected[-len(found) :]
        assert len(found) in (5, 6)


def test_a_pipeline_that_cannot_tell_where_it_is_is_refused(tmp_path: Path) -> None:
    data = tf.data.Dataset.from_generator(lambda: iter(range(9)), output_signature=tf.TensorSpec((), tf.int64))

    def train(name: str, **options: bool) -> int:
        with milepost.Checkpointer(tmp_path / name, total=jnp.zeros((), jnp.int32), progress=False) as run:
            for batch in run.batches(data, **options):
                run.step(total=run["total"] + int(batch))
        return int(run["total"])

    with pytest.raises(LoaderError, match="replay=True"):
        train("refused")
    assert train("replayed", replay=True) == 36


def test_a_loader_that_is_not_what_it_was_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        for shuffle in (True, False):
            sampler = grain.IndexSampler(COUNT, grain.ShardOptions(0, 1), shuffle=shuffle, num_epochs=1, seed=1)
            loader = grain.DataLoader(data_source=Squares(), sampler=sampler)
            with milepost.Checkpointer(folder, rng=np.random.default_rng(3), progress=False) as run:
                if not shuffle:
                    with pytest.raises(LoaderError, match="Grain refuses"):
                        iter(run.batches(loader))
                    break
                for _ in run.batches(loader):
                    run.step()
                    if run.progress.step == 3:
                        break
