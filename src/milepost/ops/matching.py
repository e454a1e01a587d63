"""Which values of a checkpoint a person means: by path, by what is above them, or by pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from milepost.core.source import TensorSource
from milepost.errors import NotFoundError


def is_pattern(text: str) -> bool:
    """Whether `text` has a ``*`` or ``?`` in it. Brackets are common in names, and mean themselves."""
    return "*" in text or "?" in text


def pattern(text: str) -> re.Pattern[str]:
    """`text` with ``*`` for any characters, ``/`` among them, and ``?`` for any one; each ``*`` is a group.

    Example:
        >>> pattern("model/*.weight").fullmatch("model/block.0.weight")[1]
        'block.0'
    """
    parts = {"*": "(.*)", "?": "(?:.)"}
    return re.compile("".join(parts.get(char) or re.escape(char) for char in text), re.DOTALL)


def matching(paths: Iterable[str], wanted: str) -> list[str]:
    """Those of `paths` that are `wanted` or below it, or, if it is a pattern that is no path itself, that it fits."""
    known = paths if isinstance(paths, dict) else list(paths)
    if wanted in known:
        return [wanted]
    if is_pattern(wanted):
        fits = pattern(wanted).fullmatch
        return [path for path in known if fits(path)]
    under = wanted.rstrip("/") + "/"
    return [path for path in known if path.startswith(under)]


def select(source: TensorSource, wanted: Sequence[str], *, plain: bool = False) -> list[str]:
    """The paths of the tensors (and, if asked for, plain values) of `source` that are meant, each once, in the order of `wanted`.

    Raises:
        NotFoundError: nothing is meant by one of `wanted`.
    """
    known = dict.fromkeys(source.specs) | (dict.fromkeys(source.plain) if plain else {})
    found: dict[str, None] = {}
    for one in wanted:
        meant = matching(known, one)
        if not meant:
            raise _nothing(source, one, plain=plain)
        found |= dict.fromkeys(meant)
    return list(found)


def _nothing(source: TensorSource, wanted: str, *, plain: bool) -> NotFoundError:
    if not plain and wanted in source.plain:
        return NotFoundError(f"{wanted!r} is a plain value, not a tensor", where=source.where)
    from milepost.ops.outline import nothing_at

    return nothing_at(source, wanted)
