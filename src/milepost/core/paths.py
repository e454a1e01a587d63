"""Paths: where in a nested state a value is, as one string.

The parts of a path (keys of dicts, indices of sequences, names of fields) are joined with ``/``. A framework's own
dotted names are one part each and keep their dots: ``model/layer1.0.weight``, ``optimizer/state/0/exp_avg``. In a part

====================  =====================================================================================
``~0``                is ``~`` and ``~1`` is ``/``, as in JSON Pointer (RFC 6901, section 3)
``~2d800``            is a lone surrogate, here U+D800: a path can always be written as UTF-8
``~`` alone           is the empty key, so that no part is empty
``1~int``             is the key 1 in a dict that also has the key "1" (see `Marked`)
====================  =====================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from milepost.errors import FormatError


class Marked(NamedTuple):
    """A part that is no string key: its text, and a mark that sets it apart from the string of the same text.

    Most keys that are no strings need none: the key 1 is simply the part ``1`` unless the dict has "1" as well.
    """

    text: str
    mark: str


Part = str | Marked

_ORDINARY = re.compile(r"[^~/\ud800-\udfff]+")
_PART = re.compile(
    r"(?P<text>(?:[^~/\ud800-\udfff]|~[01]|~2d[89a-f][0-9a-f]{2})*)(?:~(?P<mark>[A-Za-z_][A-Za-z0-9_.]*))?"
)
_ESCAPE = re.compile(r"[~/\ud800-\udfff]")
_ESCAPED = re.compile(r"~(?:([01])|2(d[0-9a-f]{3}))")


def escape(part: Part) -> str:
    """`part` as it stands in a path.

    Example:
        >>> escape("a/b"), escape("layer1.weight"), escape(""), escape(Marked("1", "int"))
        ('a~1b', 'layer1.weight', '~', '1~int')
    """
    if isinstance(part, Marked):
        return f"{_escape_text(part.text)}~{part.mark}"
    return _escape_text(part) or "~"


def unescape(part: str) -> Part:
    """The reverse of `escape`; `FormatError` if `part` is not what `escape` returns for anything."""
    if part == "~":
        return ""
    found = _PART.fullmatch(part)
    if not part or found is None:
        raise FormatError(
            "not a part of a path", where=part, expected="text in which ~ is written ~0 and / is written ~1"
        )
    text = _ESCAPED.sub(_unescaped, found["text"])
    return text if found["mark"] is None else Marked(text, found["mark"])


def join(parts: Iterable[Part]) -> str:
    """The path with these parts; the empty path has none.

    Example:
        >>> join(["model", "layer1.weight"])
        'model/layer1.weight'
    """
    return "/".join(map(escape, parts))


def split(path: str) -> tuple[Part, ...]:
    """The parts of `path`, so that ``join(split(path)) == path`` and ``split(join(parts)) == tuple(parts)``.

    Raises:
        FormatError: not a path.
    """
    return tuple(map(unescape, path.split("/"))) if path else ()


def below(path: str) -> str:
    """What the paths of everything directly below `path` begin with."""
    return path + "/" if path else ""


def _escape_text(text: str) -> str:
    if text.isascii():  # nearly all, and ten times as fast
        return text.replace("~", "~0").replace("/", "~1")
    if _ORDINARY.fullmatch(text):
        return text
    return _ESCAPE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    return {"~": "~0", "/": "~1"}.get(char) or f"~2{ord(char):x}"


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[2], 16)) if found[2] else "~/"[int(found[1])]
