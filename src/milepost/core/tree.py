"""Nested state <-> tensors by path, and a structure that holds everything else.

``flatten`` takes a state apart, ``unflatten`` puts it together again; between the two lies the structure: JSON types as
`milepost.core.values` describes them, with ``{"$tensor": path}`` where a tensor was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from milepost.core import shapes, values
from milepost.core.brief import brief, is_tagged, key_parts, kind_of
from milepost.core.decoder import DEEPEST, Decoder
from milepost.core.encoder import Encoder, Tensors
from milepost.core.paths import Marked, below, escape
from milepost.core.shapes import fit
from milepost.errors import FormatError


def flatten(
    value: object, is_leaf: Callable[[Any], bool], prefix: str = "", known: dict[str, Tensors] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Take a nested value apart.

    `value` is not changed, and the structure shares nothing with it: later changes to its plain values do not reach it.
    The tensors themselves are not copied. A tensor at two places is two leaves.

    Args:
        value: dicts, lists, tuples, dataclasses ... of tensors and plain values.
        is_leaf: whether an object is a tensor; never true for a type that `milepost.core.values` stores.
        prefix: the path of `value`, as `milepost.core.paths.join` writes it.
        known: kept by a caller that takes similar values apart again and again, which is then quicker. Structures share parts with
            it, and are not to be changed.

    Returns:
        The structure, and path -> tensor in the order of the walk.

    Raises:
        NotStorableError: something in it is neither; the error names its path.

    Example:
        >>> flatten({"weight": tensor, "step": 3}, is_tensor, prefix="model")
        ({'weight': {'$tensor': 'model/weight'}, 'step': 3}, {'model/weight': tensor})
    """
    encoder = Encoder(is_leaf, known)
    try:
        return encoder.value(value, prefix), encoder.leaves
    except RecursionError:
        raise values.too_deep(prefix) from None


def unflatten(structure: object, build: Callable[[str], Any], prefix: str = "") -> Any:
    """Put together what `flatten` took apart.

    Args:
        structure: as `flatten` returned it, perhaps by way of JSON.
        build: path -> tensor; called once for each, in order. What it raises is passed on.
        prefix: the path that `flatten` was given, for errors.

    Raises:
        FormatError: not a structure, or one that a newer milepost wrote.
    """
    try:
        return Decoder(build).value(structure, prefix)
    except RecursionError as error:
        raise FormatError("values are nested too deep", where=prefix) from error


class Node(NamedTuple):
    """One value of a structure.

    `kind` is a word: ``tensor``, ``dict``, ``list``, ``tuple``, ``int``, ``numpy.float32`` ... `encoded` is its JSON,
    equal for equal values. `size` is the number of values directly in it, None for one that holds no others.
    """

    path: str
    kind: str
    encoded: Any
    size: int | None = None

    def text(self, limit: int = 72) -> str:
        """The value in one line of at most `limit` characters, much as Python shows it. It is not escaped."""
        return brief(self.encoded, limit)


def walk(structure: object, prefix: str = "") -> Iterator[Node]:
    """Every value of a structure, containers before what is in them, without building any.

    Args:
        structure: as `flatten` returned it.
        prefix: the path that `flatten` was given.

    Raises:
        FormatError: not a structure.
    """
    waiting = [(prefix, structure, 0)]
    while waiting:
        path, node, depth = waiting.pop()
        if depth > DEEPEST:
            raise FormatError("values are nested deeper than milepost nests them", where=path)
        inside = _children(node, path)
        yield Node(path, kind_of(node), node, None if inside is None else len(inside))
        waiting += [(*child, depth + 1) for child in reversed(inside or [])]


def plain_values(structure: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The path and value of everything in a structure that is no tensor and holds no other values.

    Raises:
        FormatError: not a structure.
    """
    for node in walk(structure, prefix):
        if not node.size and node.kind != "tensor":
            yield node.path, values.decode(node.encoded, node.path)


def _children(node: Any, path: str) -> list[tuple[str, Any]] | None:
    """The values directly in `node` with their paths; None for one that can hold none."""
    if type(node) is list:
        return [(f"{below(path)}{index}", item) for index, item in enumerate(node)]
    if not is_tagged(node):
        return _entries(node, path) if type(node) is dict else None
    ((key, payload),) = node.items()
    match key[1:]:
        case "dict" | "tensors":
            return _entries(node, path)
        case "counter":
            return _entries(payload, path)
        case "tuple" as tag:
            return _children(fit(payload, list[Any], path, tag), path)
        case "deque" as tag:
            return _children(fit(payload, shapes.Deque, path, tag).items, path)
        case "defaultdict" as tag:
            return _entries(fit(payload, shapes.DefaultDict, path, tag).items, path)
        case "ordered" as tag:
            ordered: shapes.Ordered = fit(payload, shapes.Ordered, path, tag)
            return _entries(ordered.items, path) + _attributes(ordered.attributes, path)
        case "namedtuple" as tag:
            return _entries(fit(payload, shapes.Record, path, tag).fields, path)
        case "dataclass" as tag:
            record: shapes.DataRecord = fit(payload, shapes.DataRecord, path, tag)
            return _entries(record.fields, path) + _attributes(record.attributes, path)
    return None


def _entries(node: Any, path: str) -> list[tuple[str, Any]]:
    """The values of an encoded dict with their paths."""
    under = below(path)
    if is_tagged(node):
        ((key, payload),) = node.items()
        if key == "$tensors":
            stored: shapes.Tensors = fit(payload, shapes.Tensors, path, "tensors")
            paths = [below(stored.under) + escape(name) for name in stored.names]
            return [(there, {"$tensor": there}) for there in paths]
        if key == "$dict":
            pairs = fit(payload, shapes.Pairs, path, "dict")
            parts = key_parts(key for key, _ in pairs)
            return [(under + part, item) for part, (_, item) in zip(parts, pairs, strict=True)]
    elif type(node) is dict:
        return [(under + escape(key), item) for key, item in node.items()]
    raise FormatError("not a dict", where=path)


def _attributes(stored: dict[str, Any], path: str) -> list[tuple[str, Any]]:
    return [(below(path) + escape(Marked(name, "attribute")), item) for name, item in stored.items()]
