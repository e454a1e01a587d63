"""WHICH checkpoint of a folder that another program filled is meant: ``latest``, ``best``, ``best=METRIC``, ``step=9``, ``~2`` or a
name in it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NoReturn

from milepost.core.source import TensorSource
from milepost.errors import MetricError, NotFoundError, ReferenceSyntaxError
from milepost.folder.retention import best_by
from milepost.ops.sequence import Member, describe, members

_STEP = re.compile(r"step=(\d{1,18})")
_BACK = re.compile(r"~(\d{1,18})")


def open_member(place: str, which: str) -> TensorSource:
    """The checkpoint in the folder `place` that `which` names; raises as `find_member`, and what reading it raises."""
    member = find_member(place, which)
    if member.source is None:
        assert member.problem is not None
        raise member.problem
    return member.source


def find_member(place: str, which: str) -> Member:
    """The checkpoint in the folder `place` that `which` names. Those that cannot be read are passed over, unless they are named.

    Raises:
        ReferenceSyntaxError: `place` is one checkpoint.
        NotFoundError: there is none, or none such; the message lists what there is.
        MetricError: ``best``, and it is not clear by which metric.
    """
    places = members(place)
    if not places:
        raise NotFoundError("there is no checkpoint in it that milepost can read", where=place)
    if places == [place]:
        raise ReferenceSyntaxError(
            "this is one checkpoint: @ follows a run directory, or a folder of several",
            found=f"{place}@{which}",
            hint=place,
        )
    found = [describe(one) for one in places]
    whole = [one for one in found if one.source is not None]
    if which == "latest":
        chosen = whole[-1:]
    elif back := _BACK.fullmatch(which):
        chosen = whole[::-1][int(back[1]) :][:1]
    elif step := _STEP.fullmatch(which):
        chosen = [one for one in whole if one.step == int(step[1])][-1:]
    elif which == "best" or which.startswith("best="):
        chosen = _best(place, whole, which.removeprefix("best").removeprefix("="))
    else:
        chosen = [one for one in found if one.name == which]
    if not chosen:
        _nothing(place, whole, which)
    return chosen[0]


def _best(place: str, found: Sequence[Member], told: str) -> list[Member]:
    """The one with the best value of the metric that is told, or of the only one there is; of equals the oldest."""
    known = list(dict.fromkeys(name for one in found for name in one.metrics))
    if not told and len(known) != 1:
        raise MetricError(
            "which metric decides what is best?", where=place, found=", ".join(known) or "no metrics",
            hint=f"@best={known[0]}" if known else None,
        )  # fmt: skip
    by = best_by(told or known[0])
    having = [one for one in found if not math.isnan(one.metrics.get(by.metric, math.nan))]
    better = min if by.mode == "min" else max
    return [better(having, key=lambda one: one.metrics[by.metric])] if having else []


def _nothing(place: str, found: Sequence[Member], which: str) -> NoReturn:
    steps = [str(one.step) for one in found if one.step is not None]
    metrics = dict.fromkeys(name for one in found for name in one.metrics)
    raise NotFoundError(
        f"there is no checkpoint {which}",
        where=place,
        expected="latest, best, step=N, ~N or a name in the folder",
        found=f"steps {', '.join(steps[-8:])}" + (f"; metrics {', '.join(metrics)}" if metrics else ""),
    )
