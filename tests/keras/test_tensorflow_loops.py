"""`run.batches` over pipelines of tf.data: killed anywhere, continued at the same batch, without drawing again where TensorFlow can
tell the place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import milepost
from milepost.errors import LoaderError

EPOCHS, SAMPLES = 3, 20


class Killed(Exception):  # noqa: N818
    pass


def train(where: Path, dataset: Any, *, die_before: tuple[int, int] | None = None, replay: bool = False) -> list[Any]:
    """What each step saw: (epoch, samples)."""
    seen: list[Any] = []
    every = milepost.Every(steps=1)
    try:
        with milepost.Checkpointer(where, every=every, progress=False, on_mismatch="stop") as run:
            for epoch in run.epochs(EPOCHS):
                for batch in run.batches(dataset, replay=replay):
                    if (epoch, run.progress.batch) == die_before:
                        run.wait()
                        raise Killed
                    seen.append((epoch, batch.numpy().tolist()))
                    run.step()
                if (epoch, -1) == die_before:
                    run.wait()
                    raise Killed
    except Killed:
        assert die_before is not None
    return seen


def seeded() -> Any:
    return tf.data.Dataset.range(SAMPLES).shuffle(8, seed=3).batch(3)


def unseeded() -> Any:
    return tf.data.Dataset.range(SAMPLES).shuffle(SAMPLES).batch(3)


def python(seed: int | None = 3) -> Any:
    """A pipeline with Python code in it."""
    spec = tf.TensorSpec((), tf.int64)
    source = tf.data.Dataset.from_generator(lambda: iter(range(SAMPLES)), output_signature=spec)
    return source.shuffle(8, seed=seed).batch(3)


def arrays(dataset: Any) -> list[Any]:
    """A pass over it."""
    return [batch.numpy().tolist() for batch in dataset]


PLACES = [(0, 0), (0, 2), (1, 0), (1, 3), (1, 6), (1, -1), (2, 5)]


@pytest.mark.parametrize("die_before", PLACES)
def test_a_dataset_goes_on_by_its_own_position(tmp_path: Path, die_before: tuple[int, int]) -> None:
    straight = [(epoch, batch) for data in [seeded()] for epoch in range(EPOCHS) for batch in arrays(data)]
    assert [one for one in straight if one[0] == 0] != [(0, batch) for epoch, batch in straight if epoch == 1]
    first = train(tmp_path, seeded(), die_before=die_before)
    assert first + train(tmp_path, seeded()) == straight


@pytest.mark.parametrize("replay", [False, True])
def test_without_a_seed_no_sample_is_skipped_or_repeated(tmp_path: Path, replay: bool) -> None:
    seen = train(tmp_path, unseeded(), die_before=(1, 3), replay=replay) + train(tmp_path, unseeded(), replay=replay)
    for epoch in range(EPOCHS):
        samples = [sample for at, batch in seen for sample in batch if at == epoch]
        assert sorted(samples) == list(range(SAMPLES))


@pytest.mark.parametrize("die_before", [(0, 2), (1, 6), (2, 5)])
def test_where_tensorflow_cannot_tell_the_place_it_draws_again(tmp_path: Path, die_before: tuple[int, int]) -> None:
    straight = [(epoch, batch) for data in [python()] for epoch in range(EPOCHS) for batch in arrays(data)]
    first = train(tmp_path, python(), die_before=die_before, replay=True)
    assert first + train(tmp_path, python(), replay=True) == straight


def test_what_is_not_the_same_when_drawn_again_is_an_error(tmp_path: Path) -> None:
    train(tmp_path, python(seed=None), die_before=(1, 3), replay=True)
    with pytest.raises(LoaderError, match="gave other batches"):
        train(tmp_path, python(seed=None), replay=True)


def test_a_batch_in_progress_is_handed_out_again(tmp_path: Path) -> None:
    """A loop inside of another saves: TensorFlow is past the batch of the outer one, which is drawn again."""
    seen: list[Any] = []
    for attempt in range(2):
        with (
            contextlib.suppress(Killed),
            milepost.Checkpointer(tmp_path, every=milepost.Every(steps=1), progress=False) as run,
        ):
            for batch in run.batches(seeded(), name="outer", replay=True):
                for inner in run.batches(range(3), name="inner"):
                    if attempt == 0 and len(seen) == 4:
                        run.wait()
                        raise Killed
                    seen.append((batch.numpy().tolist(), inner))
                    run.step()
    assert seen == [(batch, inner) for batch in arrays(seeded()) for inner in range(3)]


@pytest.mark.parametrize(
    ("make", "words"), [(python, "replay=True"), (lambda: iter(seeded()), "give run.batches the dataset itself")]
)
def test_what_cannot_be_continued_is_refused_before_the_first_step(
    tmp_path: Path, make: Callable[[], Any], words: str
) -> None:
    with pytest.raises(LoaderError, match=words):
        train(tmp_path, make())
    assert not list(tmp_path.glob("step-*"))
