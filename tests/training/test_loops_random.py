"""Training scripts drawn at random, of loops in, after and beside each other, left early or not, with steps anywhere in them:
killed and started again, each makes the very steps that it makes uninterrupted."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from exact_jobs import folder_fixture  # noqa: F401

import milepost

PROGRAMS = 40
EPOCHS = 2


class Step(NamedTuple):
    """Made if the batch is a multiple of `of`."""

    of: int


class Draw(NamedTuple):
    """A random number that nothing comes of, as an evaluation draws them."""


class Over(NamedTuple):
    """A loop over one loader or over several that are zipped: for each its name and its batches."""

    loaders: list[tuple[str, list[int]]]
    leaves: int
    """By break, after a batch that is one more than a multiple of it; 0 for never."""
    body: list[Any]


def draw_body(dice: random.Random, names: Iterator[int], depth: int = 0) -> list[Any]:
    def draw() -> Any:
        kind = dice.random() if depth < 3 else 0.0
        if kind < 0.45:
            return Step(dice.choice((1, 1, 2, 3)))
        if kind < 0.55:
            return Draw()
        numbers = [next(names) for _ in range(dice.choice((1, 1, 2)))]
        loaders = [(f"loader {one}", [100 * one + at for at in range(dice.randint(1, 4))]) for one in numbers]
        return Over(loaders, dice.choice((0, 0, 0, 2, 3)), draw_body(dice, names, depth + 1))

    return [draw() for _ in range(dice.randint(1, 3))]


def draw_program(dice: random.Random) -> list[Any]:
    """What comes before the first loop of an epoch is done again after a restart: no step is made there."""
    names = itertools.count()
    while True:
        body = list(itertools.dropwhile(lambda one: isinstance(one, Step), draw_body(dice, names)))
        if any(isinstance(one, Over) for one in body):
            return body


def play(body: list[Any], key: int, batches: Callable[..., Iterable[int]], step: Callable[[int], None]) -> None:
    for one in body:
        if isinstance(one, Over):
            for drawn in zip(*(batches(loader, name=name) for name, loader in one.loaders), strict=False):
                play(one.body, sum(drawn), batches, step)
                if one.leaves and sum(drawn) % one.leaves == 1:
                    break
        elif isinstance(one, Draw):
            random.random()
        elif key % one.of == 0:
            step(key)


class Killed(Exception):  # noqa: N818
    pass


def trained(weights: Any, key: int) -> Any:
    return weights * 1.001 + key + random.random()


def straight(program: list[Any]) -> list[tuple[int, float]]:
    """The batch and what came of it, for each step."""
    random.seed(0)
    weights, made = np.zeros(1), []

    def step(key: int) -> None:
        nonlocal weights
        weights = trained(weights, key)
        made.append((key, float(weights[0])))

    for epoch in range(EPOCHS):
        play(program, epoch, lambda loader, name: loader, step)
    return made


def attempt(program: list[Any], directory: Path, every: int, kill_after: int) -> tuple[int, list[tuple[int, float]]]:
    """The step that was continued from, and what was made of it from there."""
    random.seed(0)
    made: list[tuple[int, float]] = []
    run = milepost.Checkpointer(directory, w=np.zeros(1), every=milepost.Every(steps=every), progress=False)
    begun = run.progress.step
    if begun:
        random.seed(1)  # what a script draws on its way to where it stopped does not matter

    def step(key: int) -> None:
        weights = trained(run["w"], key)
        made.append((key, float(weights[0])))
        run.step(w=weights)
        if len(made) == kill_after:
            run.wait()
            raise Killed

    try:
        with run:
            for epoch in run.epochs(EPOCHS):
                play(program, epoch, run.batches, step)
    except Killed:
        pass
    return begun, made


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_it_continues_where_it_stopped(seed: int, folder: Path) -> None:
    dice = random.Random(seed)
    program = draw_program(dice)
    right = straight(program)[:300]
    every, begun, made = dice.randint(1, 3), 0, right[:0]
    for kills in (True, True, True, False):
        begun, made = attempt(program, folder / "run", every, dice.randint(1, 12) if kills else len(right))
        assert made == right[begun : begun + len(made)]
    assert begun + len(made) >= len(right)
