"""Encoded values in brief, for keys in paths and for people: the same with and without their classes at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from milepost.core.paths import Marked, escape
from milepost.core.scalars import EXACT, read_bytes, read_str

KEY_LENGTH = 100
"""Characters in a path that a key takes at most which is no string."""


def is_tagged(node: Any) -> bool:
    """Whether `node` is a value under a tag rather than a plain JSON value."""
    return type(node) is dict and len(node) == 1 and str(next(iter(node))).startswith("$")


def kind_of(node: Any) -> str:
    """What `node` encodes, in a word: ``int``, ``tuple``, ``numpy.float32`` ..."""
    if is_tagged(node):
        tag = str(next(iter(node)))[1:]
        return "dict" if tag == "tensors" else tag
    return "none" if node is None else type(node).__name__


def brief(node: Any, limit: int = 72) -> str:
    """`node` much as Python would show what it encodes, cut to `limit` characters."""
    text = ""
    try:
        for piece in _pieces(node):
            text += piece
            if len(text) > limit:
                return text[: limit - 1] + "…"
    except RecursionError:  # a large limit, and a structure that no value has
        return text + "…"
    return text


def key_parts(nodes: Iterable[Any]) -> list[str]:
    """The part of a path for each key of one dict (given encoded), escaped and all different.

    A string is itself. Any other key is its text in brief, and only where another key of the dict has that part
    already, marked with its kind; then numbered (two NaNs).

    Example:
        >>> key_parts([0, 1, "1", None, {"$tuple": [1, 2]}])
        ['0', '1~int', '1', 'None', '(1, 2)']
    """
    keys = [_string(node) for node in nodes]
    if set(map(type, keys)) == {int} and max(keys) <= EXACT and min(keys) >= -EXACT:
        return list(map(str, keys))  # as in the state of every optimizer
    taken = {escape(key) for key in keys if type(key) is str}
    met: Counter[tuple[str, str]] = Counter()
    parts = []
    for key in keys:
        if type(key) is str:
            parts.append(escape(key))
            continue
        text, kind = brief(key, KEY_LENGTH), kind_of(key)
        part = escape(text)
        if part in taken:
            met[text, kind] += 1
            number = met[text, kind]
            part = escape(Marked(text, kind if number == 1 else f"{kind}.{number}"))
        taken.add(part)
        parts.append(part)
    return parts


def _string(node: Any) -> Any:
    """The string that `node` encodes if it was not plain JSON, else `node`."""
    if is_tagged(node) and type(node.get("$str")) is str:
        return read_str(node["$str"])
    return node


def _pieces(node: Any) -> Iterator[str]:
    """The text of `node`, piece by piece: at least one before going deeper, so that `brief` never goes far."""
    if is_tagged(node):
        ((tag, payload),) = node.items()
        yield from _tagged(tag[1:], payload)
    elif type(node) is dict:
        yield from _group("{", (_entry([repr(key)], ": ", item) for key, item in node.items()), "}")
    elif type(node) is list:
        yield from _group("[", map(_pieces, node), "]")
    elif type(node) is int:
        yield str(node) if abs(node) < 2**64 else hex(node)
    else:
        yield repr(node)


def _group(opening: str, items: Iterable[Iterable[str]], closing: str) -> Iterator[str]:
    yield opening
    for index, item in enumerate(items):
        if index:
            yield ", "
        yield from item
    yield closing


def _entry(key: Iterable[str], sign: str, item: Any) -> Iterator[str]:
    yield from key
    yield sign
    yield from _pieces(item)


def _tagged(tag: str, payload: Any) -> Iterator[str]:
    match tag, payload:
        case "int" | "float", str():
            yield payload
        case "str", str():
            yield repr(read_str(payload))
        case "bytes", str():
            yield _bytes(payload)
        case "tuple", [only]:
            yield from _group("(", [_pieces(only)], ",)")
        case "tuple", list():
            yield from _group("(", map(_pieces, payload), ")")
        case "set", [_, *_]:
            yield from _group("{", map(_pieces, payload), "}")
        case "dict", list() if all(type(pair) is list and len(pair) == 2 for pair in payload):
            yield from _group("{", (_entry(_pieces(key), ": ", item) for key, item in payload), "}")
        case "tensors", {"names": list(names)}:
            yield from _group("{", ([repr(name), ": <tensor>"] for name in names), "}")
        case "tensor", _:
            yield "<tensor>"
        case "enum", {"class": str(name), "name": str(member)}:
            yield f"{_short(name)}.{member}"
        case "namedtuple" | "dataclass", {"class": str(name), "fields": dict(fields)} if not is_tagged(fields):
            yield from _group(_short(name) + "(", (_entry([key], "=", item) for key, item in fields.items()), ")")
        case (("ordered" | "defaultdict" | "deque"), {"items": items}):
            yield from _group(tag + "(", [_pieces(items)], ")")
        case "python.name", str():
            yield payload
        case _:
            yield from _group(tag + "(", [_pieces(payload)], ")")


def _bytes(text: str) -> str:
    try:
        return repr(read_bytes(text))
    except ValueError:
        return f"bytes({text!r})"


def _short(name: str) -> str:
    """The name of a class without its module."""
    return name.partition(":")[2]
