"""JSON that stands beside tensors, within bounds on what it becomes in memory."""

from __future__ import annotations

import json
from typing import Any

from milepost.errors import FormatError
from milepost.formats import bounds
from milepost.formats.place import Readable

LARGEST = 64 * 1024 * 1024
"""Bytes of a text."""
MOST = 500_000
"""Values in it, about."""


def plain_json(raw: bytes, where: str) -> Any:
    """What `raw` says; NaN and infinities as Python writes them are understood, since a run that diverged has them.

    Raises:
        FormatError: it is no JSON, or nested too deep.
        UnsafeContentError: there are more values than any checkpoint has.
    """
    if (values := sum(map(raw.count, (b",", b"[", b"{")))) > bounds.most(MOST):
        raise bounds.too_much("a text of JSON has more values than any checkpoint", where, bound=MOST, found=values)
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError("this is not JSON of the expected form", where=where, found=str(error)[:200]) from error


def read_json_of(file: Readable) -> Any:
    """What all of `file` says; raises as `plain_json` does, and for a file that is impossibly large."""
    if file.size > bounds.most(LARGEST):
        raise bounds.too_much("a file of JSON has more bytes than any", file.where, bound=LARGEST, found=file.size)
    return plain_json(file.read(0, file.size), file.where)
