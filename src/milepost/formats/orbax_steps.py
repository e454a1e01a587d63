"""What stands beside the items of a step of Orbax: its number, metrics and time; what its folder is called until it is whole."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from milepost.formats.place import Folder

ABOUT = "_CHECKPOINT_METADATA"
METRICS = "metrics"
UNFINISHED = ".orbax-checkpoint-tmp"
"""What the name of a folder has in it until its checkpoint is whole."""

_STEP = re.compile(r"(?:[A-Za-z_.-]*[_.-])?([0-9]{1,18})")


def step_of(name: str) -> int | None:
    """The step that a folder is named by; None if it is by none."""
    found = _STEP.fullmatch(name)
    return None if found is None else int(found[1])


def unfinished(place: Folder) -> list[str]:
    """The names of steps that were never finished, the newest last."""
    found = [(step_of(name.partition(UNFINISHED)[0]), name) for name in place.names if UNFINISHED in name]
    return [name for _, name in sorted((step, name) for step, name in found if step is not None)]


def metrics_in(value: Any) -> dict[str, float]:
    """The numbers among the metrics of a step; those in groups of metrics are called by their path."""
    found: dict[str, float] = {}
    waiting = [("", value)]
    while waiting:
        under, inside = waiting.pop()
        for name, one in inside.items() if isinstance(inside, dict) else ():
            if isinstance(one, dict):
                waiting.append((f"{under}{name}/", one))
            elif isinstance(one, int | float) and not isinstance(one, bool):
                found[f"{under}{name}"] = float(one)
    return found


def time_of(about: dict[str, Any]) -> str | None:
    """When a checkpoint was whole (ISO 8601), as it says itself."""
    told = about.get("commit_timestamp_nsecs")
    if type(told) is not int or not 0 < told < 2**62:
        return None
    return datetime.fromtimestamp(told // 10**9, UTC).isoformat(timespec="seconds")
