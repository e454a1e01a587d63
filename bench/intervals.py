"""Medians and means with 95 % intervals."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """An estimate, its 95 % interval and the number of samples behind it. With fewer than six samples no two of them bound the
    median with 95 %: then `low` and `high` are the extremes, and `wide` is False."""

    value: float
    low: float
    high: float
    samples: int
    wide: bool = True


def median(samples: Sequence[float]) -> Interval:
    """The median and the narrowest pair of order statistics that encloses it with a probability of at least 95 %.

    The number of samples below the median is binomial(n, 1/2), whatever they are distributed like (W. J. Conover, Practical
    Nonparametric Statistics, 3rd ed., section 3.2).
    """
    ordered = sorted(samples)
    count = len(ordered)
    outside = 0.0
    skip = 0
    while skip < count // 2:
        outside += 2 * math.comb(count, skip) / 2**count
        if outside > 0.05:
            break
        skip += 1
    low = max(0, skip - 1)
    return Interval(statistics.median(ordered), ordered[low], ordered[count - 1 - low], count, skip > 0)


def slowdown(
    alone: Sequence[float], saving: Sequence[Sequence[float]], *, repeat: int = 10_000, seed: int = 0
) -> Interval:
    """How much longer steps take while saving, as a share: 0.02 is 2 %.

    The interval is the percentile bootstrap: steps are drawn anew, with replacement, among those that stand at the same distance
    from a save (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, chapter 13).

    Args:
        alone: times of steps without saving, each divided by their mean in its process.
        saving: for each distance from the last save, times of steps at it, divided by the same mean.
        repeat: resamples.
        seed: of the resampling, so that the same times give the same interval.
    """
    draw = random.Random(seed)

    def estimate(alone: Sequence[float], saving: Sequence[Sequence[float]]) -> float:
        return statistics.fmean(statistics.fmean(steps) for steps in saving) / statistics.fmean(alone) - 1

    found = sorted(
        estimate(draw.choices(alone, k=len(alone)), [draw.choices(steps, k=len(steps)) for steps in saving])
        for _ in range(repeat)
    )
    low, high = found[int(0.025 * repeat)], found[int(0.975 * repeat)]
    return Interval(estimate(alone, saving), low, high, len(alone) + sum(map(len, saving)))
