"""Pytrees as nested values of the kinds that milepost stores, and back into pytrees of the same classes.

What JAX knows as a node is stored as a dict, list, tuple or named tuple of its children, under the names that JAX gives
them; its static fields are the script's and are not stored. Leaves that are functions (activations) are the script's too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from milepost.core import classes
from milepost.core.foreign import Foreign

_registry = jax.tree_util.default_registry
_SKIPPED = object()
"""Stands for what is not stored."""


def is_array(value: Any) -> bool:
    """Whether `value` is an array, of JAX or NumPy, or the description of one."""
    return isinstance(value, (jax.Array, jax.ShapeDtypeStruct, np.ndarray))


def is_node(value: Any) -> bool:
    """Whether JAX looks into `value`."""
    return value is not None and _children(value) is not None


def is_kept(leaf: Any) -> bool:
    """Whether a leaf is the script's own, as a function is: not stored, and left as it is on restore."""
    return callable(leaf) and not isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def unfold(value: Any) -> Any:
    """`value` as it is stored, with the same arrays in it. Leaves come in the order of `jax.tree.leaves`."""
    if value is None:
        return None
    children = _children(value)
    if children is None:
        return _SKIPPED if is_kept(value) else value
    if _is_box(value, children):
        return unfold(children[0][1])
    inside = [(_key(entry), unfold(child)) for entry, child in children]
    kind = type(value)
    if kind is dict or not _in_order(children):
        named = {key: child for key, child in inside if child is not _SKIPPED}
        if _is_namedtuple(value) and len(named) == len(inside) and classes.find(classes.name_of(kind)) is kind:
            return tuple.__new__(kind, named.values())
        return named
    items = [None if child is _SKIPPED else child for _, child in inside]
    return tuple(items) if issubclass(kind, tuple) else items


def refill(live: Any, saved: Any, make: Callable[[Any, Any], Any]) -> Any:
    """A value as `live`, with what was saved in place of its leaves.

    Args:
        live: the pytree that gives classes, static fields and functions.
        saved: what `unfold` made of one like it.
        make: (saved leaf, live leaf or None) -> the leaf that comes.

    Containers of Python itself have as many elements, and the keys, that were saved.
    """
    if live is None or is_array(live):
        return _alone(saved, live, make)
    children = _children(live)
    if children is None:
        return live if is_kept(live) else _alone(saved, live, make)
    if _is_box(live, children):
        return _rebuilt(live, [refill(children[0][1], saved, make)])
    inside = _inside(saved)
    if inside is None:
        return _alone(saved, None, make)
    keys = [_key(entry) for entry, _ in children]
    if type(live) in (dict, list, tuple) and set(keys) != set(inside):
        here = dict(zip(keys, (child for _, child in children), strict=True))
        filled = {key: refill(here.get(key), child, make) for key, child in inside.items()}
        return filled if type(live) is dict else type(live)(filled.values())
    return _rebuilt(
        live, [refill(child, inside.get(key, child), make) for key, (_, child) in zip(keys, children, strict=True)]
    )


def _alone(saved: Any, live: Any, make: Callable[[Any, Any], Any]) -> Any:
    """What was saved where `live` has no children: plain containers may have come since."""
    inside = _inside(saved) if type(saved) in (dict, list, tuple) else None
    if inside is None:
        return make(saved, live)
    filled = {key: _alone(child, None, make) for key, child in inside.items()}
    return filled if type(saved) is dict else type(saved)(filled.values())


def _children(value: Any) -> list[tuple[Any, Any]] | None:
    """The values directly in a node, with JAX's keys for them; None for a leaf."""
    found = _registry.flatten_one_level_with_keys(value)
    if found is None:
        return None
    children = list(found[0])
    if _is_namedtuple(value) and len(children) == len(value):  # JAX 0.10 gives all of them the name of the first
        return [(GetAttrKey(name), child) for name, (_, child) in zip(value._fields, children, strict=True)]
    return children


def _rebuilt(live: Any, children: list[Any]) -> Any:
    """`live` with other children."""
    _, structure = jax.tree.flatten(live, is_leaf=lambda inside: inside is not live)
    return jax.tree.unflatten(structure, children)


def _key(entry: Any) -> Any:
    """The name of a child: a key, an index, or the name of a field."""
    match entry:
        case DictKey(key=key) | FlattenedIndexKey(key=key):
            return key
        case SequenceKey(idx=index):
            return index
        case GetAttrKey(name=name):
            return name
    return str(entry)


def _in_order(children: list[tuple[Any, Any]]) -> bool:
    """Whether children are numbered rather than named."""
    return bool(children) and all(isinstance(entry, (SequenceKey, FlattenedIndexKey)) for entry, _ in children)


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _is_box(value: Any, children: list[tuple[Any, Any]]) -> bool:
    """Whether a node is one of Flax that wraps a single array with its description: it adds no level to the path."""
    keys = [_key(entry) for entry, _ in children]
    return keys == ["value"] and type(value).__module__.partition(".")[0] == "flax"


def _inside(saved: Any) -> Mapping[Any, Any] | None:
    """The values directly in what `unfold` made, by key."""
    if isinstance(saved, Foreign):
        saved = saved.content.get("fields") if isinstance(saved.content, dict) else None
    if isinstance(saved, dict):
        return saved
    if _is_namedtuple(saved):
        return dict(zip(saved._fields, saved, strict=True))
    return dict(enumerate(saved)) if type(saved) in (list, tuple) else None
