"""Numbers and times for people."""

from __future__ import annotations

import shlex
import time
from datetime import UTC, datetime
from typing import Any

from milepost.core.text import safe


def size(nbytes: int) -> str:
    """Bytes in decimal units.

    Example:
        >>> size(999), size(1_234_567)
        ('999 B', '1.23 MB')
    """
    if nbytes < 1000:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.5 or unit == "PB":
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    Example:
        >>> count(1, "checkpoint"), count(1200, "checkpoint")
        ('1 checkpoint', '1,200 checkpoints')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def number(value: float) -> str:
    """A metric, to four digits."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A length of time, to one unit.

    Example:
        >>> duration(5), duration(200), duration(100_000)
        ('5 s', '3 min', '28 h')
    """
    for unit, length, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def on_node(step: int, host: str, path: str) -> str:
    """What is not in the run directory yet.

    Example:
        >>> on_node(400, "node7", "/tmp/milepost-3f2a/2")
        'step 400 is on the disk of node7 alone: /tmp/milepost-3f2a/2'
    """
    return safe(f"step {step:,} is on the disk of {host} alone: {path}")


def moment(stamp: str, now: float | None = None) -> tuple[str, str]:
    """An ISO 8601 time as local time, and how long ago it was; of anything else the safe text, and nothing.

    Args:
        stamp: as a manifest has it.
        now: seconds since the epoch; the clock's if None.
    """
    try:
        then = datetime.fromisoformat(stamp)
        if then.tzinfo is None:
            then = then.replace(tzinfo=UTC)
        local = then.astimezone()
    except (ValueError, OverflowError):
        return safe(stamp), ""  # no time, or one that no calendar here has
    age = (time.time() if now is None else now) - then.timestamp()
    # A clock that is ahead is not worth a word unless it is far ahead.
    ago = f"{duration(max(age, 0))} ago" if age > -60 else f"in {duration(-age)}"
    return f"{local:%Y-%m-%d %H:%M:%S}", ago


def shape(sizes: tuple[int, ...]) -> str:
    """The shape of a tensor.

    Example:
        >>> shape((512, 784)), shape(())
        ('512 × 784', 'scalar')
    """
    return " × ".join(map(str, sizes)) or "scalar"


def inline(value: Any) -> str:
    """A value from a manifest in one safe line: a command as one would type it, names before what they name."""
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, dict):
        return ", ".join(f"{safe(str(key))} {inline(item)}" for key, item in value.items())
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return safe(shlex.join(value))
    if isinstance(value, list):
        return ", ".join(map(inline, value))
    return safe(str(value))
