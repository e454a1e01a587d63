"""Where an audit resumes: the moments of an uninterrupted run that are worth it, or those that a person names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from milepost.auditing.records import THE_END, Key, Seen
from milepost.errors import AuditError, ScriptError
from milepost.training.progress import Phase

MOST_POINTS = 200
"""Points of one audit with ``every_step``."""


_CUT_OFF = "if the script was ended before its time, --seconds gives it more"


class Point(NamedTuple):
    """A moment to save at and resume from, and what it stands for."""

    key: Key
    label: str


def choose(seen: Sequence[Seen], at: Sequence[int], *, every_step: bool, ended: bool) -> list[Point]:
    """The points to resume from, in order.

    Args:
        seen: what an uninterrupted process went through.
        at: the steps that are wanted; if empty, a moment of each kind there is.
        every_step: all steps, if `at` is empty.
        ended: the script had come to its end; else nothing is known of what follows the last moment.

    Raises:
        AuditError: no step was made.
        ScriptError: a step that was not made; too many.
    """
    keys = [one.key for one in seen if one.key.session == 0 and one.key.asker != THE_END]
    keys = keys if ended else keys[:-1]
    before = [0, *(key.step for key in keys)]
    stepped = [key for number, key in enumerate(keys) if key.step > before[number]]
    if not stepped:
        raise AuditError(
            "the script makes no step that can be observed",
            expected="run.step(...) in its loop",
            hint=_CUT_OFF,
        )
    if at:
        return [Point(key, _kind(key, keys, stepped)) for key in _named(stepped, at)]
    if every_step:
        if len(stepped) > MOST_POINTS:
            raise ScriptError(
                f"{len(stepped)} steps are too many to resume from each",
                expected=f"at most {MOST_POINTS}",
                hint="let the script make fewer steps, or name some with --at",
            )
        return [Point(key, _kind(key, keys, stepped)) for key in stepped]
    return _of_each_kind(keys, stepped)


def fitting(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` of `points`, evenly spread."""
    if len(points) <= most:
        return list(points)
    return [points[(2 * number + 1) * len(points) // (2 * most)] for number in range(most)]


def _named(stepped: Sequence[Key], at: Sequence[int]) -> list[Key]:
    by_step = {key.step: key for key in reversed(stepped)}
    missing = [step for step in at if step not in by_step]
    if missing:
        raise ScriptError(
            f"there is no step {missing[0]} to resume from",
            found=f"steps {stepped[0].step} to {stepped[-1].step}",
            hint=_CUT_OFF if missing[0] > stepped[-1].step else None,
        )
    return [by_step[step] for step in sorted(set(at))]


def _kind(key: Key, keys: Sequence[Key], stepped: Sequence[Key]) -> str:
    """What a moment after a step stands for."""
    if key in (stepped[0], stepped[-1]):
        return "first step" if key == stepped[0] else "last step"
    if not (key.epoch or key.batch or key.asker):
        return "mid-run"  # of a loop without epochs
    after = keys[keys.index(key) + 1 :]
    return "last batch" if after and after[0].phase == Phase.BATCHES_DONE else "mid-epoch"


def _of_each_kind(keys: Sequence[Key], stepped: Sequence[Key]) -> list[Point]:
    inside = [key for key in stepped if key.phase == Phase.IN_EPOCH]
    one_epoch = [key for key in inside if key.epoch == inside[len(inside) // 2].epoch] if inside else []
    wanted = {
        "first step": stepped[0],
        "mid-epoch": one_epoch[len(one_epoch) // 2] if one_epoch else None,
        "batches done": _middle([key for key in keys if key.phase == Phase.BATCHES_DONE]),
        "epoch end": _middle([key for key in keys if key.phase == Phase.EPOCH_ENDED]),
        "last step": stepped[-1],
    }
    order = {key: number for number, key in enumerate(keys)}
    found: dict[Key, str] = {}
    for label, key in wanted.items():
        if key is not None:
            found[key] = f"{found[key]}, {label}" if key in found else label
    return [Point(key, found[key]) for key in sorted(found, key=order.__getitem__)]


def _middle(keys: Sequence[Key]) -> Key | None:
    """The middle one, and of two the earlier; the last has nothing after it."""
    return keys[(len(keys) - 1) // 2] if keys else None
