"""What stands beside the arrays of Orbax: how each is called in the tree that was saved, and what in it is no array."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from milepost.core.paths import Part, split
from milepost.core.readjson import Unreadable, read_json
from milepost.core.source import TensorSource
from milepost.errors import FormatError
from milepost.formats import bounds, flax
from milepost.formats.place import Folder

TREE = "_METADATA"
ARRAYS = "array_metadatas"
AGGREGATE = "checkpoint"
"""Where Orbax had the tree at first, as Flax serialises it: small values themselves, and of others the names of their arrays."""
LARGEST = 24 * 1024 * 1024
"""Bytes of a file."""

_EMPTY: dict[str, Any] = {"None": None, "Dict": {}, "List": [], "Tuple": ()}
_TEXT = ("string", "str")
_SEQUENCE = 1
"""What type a key is of."""
_NAMES = ("PLACEHOLDER://", "AGGREGATED://")


class Tree(NamedTuple):
    """The tree of one folder; arrays are known by the names that they have there."""

    keys: dict[str, list[Part]]
    """Of each array."""
    empty: list[tuple[list[str], Any]]
    """Keys and value of what is empty."""
    texts: dict[str, list[str]]
    """Keys of each text, by the name it has among the texts."""
    needed: set[str]
    """Arrays that have to be there."""
    of_jax: set[str]
    """Those that were arrays of JAX, not of NumPy."""
    sequences: set[tuple[str, ...]]
    """Keys of what is a list or tuple, which nobody can tell from a dict by them."""
    whole: bool = False
    """Every piece was written, so that one that is missing is not a piece of zeros."""
    aside: TensorSource | None = None
    """Values that are in no array."""


def read_tree(folder: Folder) -> Tree:
    """The tree of `folder`; an empty one where nothing is told.

    Raises:
        FormatError: it cannot be understood.
    """
    aside = flax.open_source(folder.file(AGGREGATE)) if has_aggregate(folder) else None
    found = Tree({}, [], {}, set(), set(), set(), aside=aside)
    if found.aside is not None:
        for path, value in found.aside.plain.items():
            if is_name(value):
                found.keys[value.partition("://")[2]] = [*split(path)]
    if not folder.has(TREE):
        return found
    told = _read(folder, TREE, _Tree)
    for entry in told.tree_metadata.values():
        keys = [str(key.key) for key in entry.key_metadata]
        kind, name = entry.value_metadata.value_type, ".".join(keys)
        found.sequences.update(
            tuple(keys[:at]) for at, key in enumerate(entry.key_metadata) if key.key_type == _SEQUENCE
        )
        if kind in _EMPTY:
            found.empty.append((keys, _EMPTY[kind]))
        elif kind in _TEXT:
            found.texts[name] = keys
        else:
            found.keys[name] = [*keys]
            if kind == "jax.Array":
                found.of_jax.add(name)
            if kind in ("jax.Array", "np.ndarray", "scalar") and not entry.value_metadata.skip_deserialize:
                found.needed.add(name)
    return found._replace(whole=told.store_array_data_equal_to_fill_value)


def has_aggregate(folder: Folder) -> bool:
    """Whether the tree, or a part of it, is there as Orbax had it at first."""
    return folder.has(AGGREGATE) and flax.recognises(folder.file(AGGREGATE))


def is_name(value: Any) -> bool:
    """Whether a value of such a tree stands for an array beside it."""
    return isinstance(value, str) and value.startswith(_NAMES)


def random_keys(folder: Folder) -> dict[str, str]:
    """By the names of arrays that are typed keys of `jax.random`: their kind. Each process notes its own arrays.

    Raises:
        FormatError: it cannot be understood.
    """
    kinds: dict[str, str] = {}
    if ARRAYS in folder.names:
        inner = folder.folder(ARRAYS)
        for file in inner.names:
            for entry in _read(inner, file, _Arrays).array_metadatas:
                kind = (entry.array_metadata.ext_metadata or {}).get("random_key_impl")
                if isinstance(kind, str):
                    kinds[entry.array_metadata.param_name] = kind[:100]
    return kinds


class _Key(msgspec.Struct):
    key: str | int
    key_type: int | None = None


class _Value(msgspec.Struct):
    value_type: str
    skip_deserialize: bool = False


class _Entry(msgspec.Struct):
    key_metadata: list[_Key]
    value_metadata: _Value


class _Tree(msgspec.Struct):
    tree_metadata: dict[str, _Entry]
    store_array_data_equal_to_fill_value: bool = False


class _Array(msgspec.Struct):
    param_name: str
    ext_metadata: dict[str, Any] | None = None


class _Of(msgspec.Struct):
    array_metadata: _Array


class _Arrays(msgspec.Struct):
    array_metadatas: list[_Of]


def _read(folder: Folder, name: str, form: type[Any]) -> Any:
    file = folder.file(name)
    if file.size > bounds.most(LARGEST):
        raise bounds.too_much("a file of JSON has more bytes than any", file.where, bound=LARGEST, found=file.size)
    try:
        return read_json(file.read(0, file.size), form)
    except Unreadable as error:
        raise FormatError(
            "the list of arrays cannot be understood", where=file.where, found=str(error)[:200]
        ) from error
