"""Text from outside (names in files, metrics, paths, error messages) made safe to show to a person."""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: line ends, ESC, and the one-byte forms of CSI and OSC
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidi controls: what is shown is not what is there
    "\u2028\u2029"  # line and paragraph separator
    "\ud800-\udfff"  # lone surrogates: bytes that are no UTF-8, which cannot be written either
    "]"
)


def safe(text: str) -> str:
    r"""`text` with everything that a terminal obeys rather than shows as a visible escape, in one line.

    For people, not for reading back: a backslash that was there stays a single one. It escapes no markup; whoever
    hands the result to HTML, Markdown or rich escapes for that too, or passes it as plain text.

    Example:
        >>> print(safe("fc1\x1b[2J\n\u202egpj.exe"))
        fc1\x1b[2J\n\u202egpj.exe
    """
    return _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")
