"""Which checkpoints to resume from."""

from __future__ import annotations

from collections.abc import Sequence

from milepost.auditing.foreign.records import Save
from milepost.auditing.points import Point
from milepost.auditing.records import Key
from milepost.errors import ScriptError
from milepost.training.progress import Phase

MOST_POINTS = 50


def points(saves: Sequence[Save], last: int, *, at: Sequence[int], every: bool) -> list[Point]:
    """The checkpoints to resume from.

    Args:
        saves: what an uninterrupted process saved.
        last: the step it ended with.
        at: steps; the first checkpoint at or after each.
        every: all of them.

    Raises:
        ScriptError: there is no checkpoint at or after a step, or there are too many.
    """
    keys = list({one.key.step: one.key for one in saves if one.key.step}.values())
    if at:
        missing = [step for step in at if step > keys[-1].step]
        if missing:
            raise ScriptError(
                f"nothing is saved at or after step {missing[0]}",
                found=f"checkpoints after steps {', '.join(str(key.step) for key in keys[-8:])}",
            )
        found = dict.fromkeys(next(key for key in keys if key.step >= step) for step in at)
        return [Point(key, _kind(key, keys)) for key in found]
    if every:
        if len(keys) > MOST_POINTS:
            raise ScriptError(
                f"{len(keys)} checkpoints are too many to resume from each",
                expected=f"at most {MOST_POINTS}",
                hint="let the script make fewer steps, or name some with --at",
            )
        return [Point(key, _kind(key, keys)) for key in keys]
    useful = [key for key in keys if key.step < last] or keys  # after the last there is nothing to compare
    wanted = {
        "first": useful[0],
        "mid-epoch": _middle([key for key in useful if key.phase == Phase.IN_EPOCH]),
        "epoch end": _middle([key for key in useful if key.phase in (Phase.EPOCH_ENDED, Phase.BATCHES_DONE)]),
        "last": useful[-1],
    }
    labels: dict[Key, str] = {}
    for label, key in wanted.items():
        if key is not None:
            labels[key] = f"{labels[key]}, {label}" if key in labels else label
    return [Point(key, labels[key]) for key in sorted(labels, key=lambda key: key.step)]


def _kind(key: Key, keys: Sequence[Key]) -> str:
    """What the checkpoint at a moment stands for."""
    if key in (keys[0], keys[-1]):
        return "first" if key == keys[0] else "last"
    return "epoch end" if key.phase in (Phase.EPOCH_ENDED, Phase.BATCHES_DONE) else "mid-epoch"


def _middle(keys: Sequence[Key]) -> Key | None:
    return keys[len(keys) // 2] if keys else None
