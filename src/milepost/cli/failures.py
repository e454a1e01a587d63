"""Errors as the command line tells them."""

from __future__ import annotations

from typing import Any

from milepost.cli.terminal import note, paint
from milepost.core.text import safe
from milepost.errors import MilepostError, MismatchError


def as_json(error: MilepostError) -> dict[str, Any]:
    """`error` with stable keys: kind and message, and where, expected, found and next as far as known."""
    told: dict[str, Any] = {"kind": error.kind, "message": error.message, **error.fields()}
    if isinstance(error, MismatchError):
        told["rows"] = [{"path": row.path, "saved": row.saved, "here": row.here} for row in error.rows]
    return told


def tell(error: MilepostError) -> None:
    """Say on stderr what went wrong, where, and what to do next."""
    import sys

    note(f"{paint('error:', 'red', sys.stderr)} {safe(error.message)}")
    for name, value in error.fields().items():
        note(f"  {name + ':':9} {safe(value)}")
    if isinstance(error, MismatchError):
        for row in error.rows:
            note(f"  {safe(row.path)}: saved {safe(row.saved)}, here {safe(row.here)}")
