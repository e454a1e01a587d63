"""How a nested state dict, the flat names that torch.distributed.checkpoint gives to what is in it, and the paths in a manifest
belong together.

A state dict becomes the items of a checkpoint key by key. Where DCP's default planner flattened it, the names follow from the
structure, so they are kept in the manifest only where another planner chose others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint._traverse import get_element, set_element

from milepost.core import tree
from milepost.core.manifest import Manifest
from milepost.core.paths import join
from milepost.errors import FormatError, NotStorableError

KEPT = "state_dict_names"
"""Where in a manifest's `written_by` the names stand that do not follow from the structure: name -> parts."""

Parts = tuple[str | int, ...]
_NOTHING: Any = object()


@dataclass(frozen=True)
class Place:
    """Stands where a tensor is, in a state dict that holds none."""

    path: str


class Named(NamedTuple):
    """A state dict as planners see it: by name a `Place` or a value, and where in the nested state dict each is."""

    values: dict[str, Any]
    parts: dict[str, Parts]


def parts_of(name: str, mapping: object) -> Parts:
    """Where in the state dict `name` is, by a planner's own mapping if it has one."""
    found = mapping.get(name) if isinstance(mapping, Mapping) else None
    return tuple(found) if found else (name,)


def path_of(parts: Parts) -> str:
    """The path of what is at `parts`."""
    return join(map(str, parts))


def is_place(value: object) -> bool:
    """Whether `value` stands for a tensor."""
    return isinstance(value, Place)


def items_of(
    values: Mapping[str, Any], parts: Mapping[str, Parts], paths: Iterable[str]
) -> tuple[dict[str, Any], dict[str, list[str | int]]]:
    """The structures of the items of a checkpoint, and the names to be kept since they do not follow from these.

    Args:
        values: by name, a `Place` for each tensor, or a value that may hold some.
        parts: where in the state dict each is.
        paths: of all the tensors.

    Raises:
        NotStorableError: two names have one place, or a key is no plain text.
    """
    nested: dict[str, Any] = {}
    for name, value in values.items():
        set_element(nested, parts[name], value)
    items, found = {}, set()
    for key, value in nested.items():
        items[key], places = tree.flatten(value, is_place, path_of((key,)))
        found |= {path for path, place in places.items() if place.path == path}
    if lost := set(paths) - found:
        raise NotStorableError("the state dict has two values for one place, or keys that are no text", where=min(lost))
    plain, _ = flatten_state_dict(nested)
    same = plain.keys() == values.keys() and all(is_place(plain[name]) == is_place(values[name]) for name in values)
    return items, {} if same else {name: list(parts[name]) for name in values}


def named(manifest: Manifest, where: str) -> Named:
    """The state dict of a checkpoint by name, with a `Place` for each tensor.

    Raises:
        FormatError: the names that are kept in the manifest do not fit it.
    """
    nested = {key: tree.unflatten(structure, Place, path_of((key,))) for key, structure in manifest.items.items()}
    kept = manifest.written_by.get(KEPT)
    if kept is None:
        return Named(*flatten_state_dict(nested))
    try:
        parts: dict[str, Parts] = {str(name): tuple(found) for name, found in kept.items()}
        values = {name: get_element(nested, found, _NOTHING) for name, found in parts.items()}
        if any(value is _NOTHING for value in values.values()):
            raise KeyError("a name of nothing")
        return Named(values, parts)
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
        raise FormatError(f"{KEPT!r} in the manifest does not fit its items", where=where, found=error) from error
