"""Where words go: the result to stdout, notes and progress to stderr; colour and width as the terminal allows."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any, TextIO

_BETWEEN = 0.05
"""Seconds between two texts of a progress line; a terminal takes longer to show one than a small tensor to be read."""
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "dim": 2, "bold": 1}


def say(text: str = "") -> None:
    """A line (or several) of the result."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line for the person at the terminal, not part of the result."""
    sys.stderr.write(text + "\n")


def document(value: Any) -> None:
    """The result as one JSON document. It is ASCII, so that no terminal obeys what stands in it."""
    import json

    # JSON lets DEL stand as it is.
    say(json.dumps(value, indent=1, allow_nan=False).replace("\x7f", "\\u007f"))


def width() -> int | None:
    """Columns of the terminal that stdout is; None if it is none, and lines may be of any length."""
    return shutil.get_terminal_size().columns if _is_terminal(sys.stdout) else None


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """`text` in a colour, if `stream` (stdout if None) shows colours and NO_COLOR (https://no-color.org) does not
    forbid them."""
    stream = stream or sys.stdout
    if not colour or not _is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


class Progress:
    """One line on stderr that is written over and goes away; nothing where stderr is no terminal.

    Example:
        >>> with Progress() as progress:
        ...     progress.show("verifying step-00000100, 40 %")
    """

    def __init__(self) -> None:
        self._shown = ""
        self._next = 0.0

    def show(self, text: str, *, often: bool = False) -> None:
        """Show `text` (safe, one line) in place of what was shown before; of one that changes `often`, as much as can be read."""
        now = time.monotonic()
        if text == self._shown or (often and now < self._next) or not _is_terminal(sys.stderr):
            return
        self._next = now + _BETWEEN
        room = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r\x1b[K" + text[:room])
        sys.stderr.flush()
        self._shown = text

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()
