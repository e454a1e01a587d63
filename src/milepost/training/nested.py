"""States that an object keeps under names with slashes, as nested dicts, so that a path leads through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `flat` in a dict for each folder. No name may be the folder of another.

    Example:
        >>> nest({"dense/kernel": 1, "dense/bias": 2})
        {'dense': {'kernel': 1, 'bias': 2}}
    """
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, last = path.split("/")
        inside = nested
        for folder in folders:
            inside = inside.setdefault(folder, {})
        inside[last] = value
    return nested


def flatten(nested: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """The reverse of `nest`; what comes from one folder comes together."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= flatten(value, f"{under}{name}/") if isinstance(value, dict) else {under + name: value}
    return flat


def at(nested: Any, path: str) -> Any:
    """What is at `path`; None if nothing is."""
    for name in path.split("/"):
        nested = nested.get(name) if isinstance(nested, dict) else None
    return nested
