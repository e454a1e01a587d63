"""How much may be in a file.

Each format has its own bounds, so that the file of a stranger is answered within 2 s and 200 MB. Who has a larger file and trusts
it sets ``MILEPOST_BOUNDS=10``, which makes all of them, the time and the memory ten times as large.
"""

from __future__ import annotations

import os

from milepost.errors import ScriptError, UnsafeContentError

VARIABLE = "MILEPOST_BOUNDS"


def times() -> int:
    """How many times the bounds are what they are by themselves.

    Raises:
        ScriptError: the variable is no number.
    """
    text = os.environ.get(VARIABLE) or "1"
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text)):
        raise ScriptError(
            f"{VARIABLE} is no number", expected="by how much the bounds are multiplied: 10", found=text[:100]
        )
    return int(text)


def most(number: int) -> int:
    """The bound that is `number` by itself."""
    return number * times()


def too_much(message: str, where: str, *, bound: int | None = None, found: object = None) -> UnsafeContentError:
    """The error for what is beyond a bound: it may be harm, or a file larger than any that was thought of."""
    return UnsafeContentError(
        message,
        where=where,
        expected=None if bound is None else f"at most {most(bound):,}",
        found=f"{found:,}" if isinstance(found, int) else found,
        hint=f"if you trust the file, {VARIABLE}=10 in the environment allows ten times as much",
    )
