"""Names of tensors in TensorFlow checkpoints: readable paths for the objects that were saved.

An object-based checkpoint (`tf.train.Checkpoint`, Keras) holds a graph of the objects that tracked each other, and a variable
stands under the name that led to it first (tensorflow/core/protobuf/trackable_object_graph.proto). That name is often the wrong
one for a reader: Keras 3 finds the weights of a model in the lists of its optimizer before it finds them in the layers. So the
graph is walked again here, and such lists come last. Slots of an optimizer get a path below that optimizer.
"""

from __future__ import annotations

import heapq
import re
from typing import NamedTuple

from milepost.core.paths import join
from milepost.formats import bounds
from milepost.formats.protobuf import Fields, data, datas, number, parse, text
from milepost.formats.source import divided

ATTRIBUTES = "/.ATTRIBUTES/"
VALUE = "VARIABLE_VALUE"
MOST = 250_000
"""Objects, references between them, and values."""
DEEPEST = 64
"""References in a row that make a name."""
LONGEST = 2048
"""Characters of a readable path."""
_LISTS = frozenset({"_trainable_variables", "_variables", "_all_variables", "variables", "trainable_variables"})
"""Names of lists that have what has a better name elsewhere."""
_DETOUR = 8
_ESCAPED = re.compile(r"\.([S.])")


class Names(NamedTuple):
    """By key of the table: the path for people, and the name that the variable itself had."""

    paths: dict[str, str]
    full: dict[str, str]


def names_in(graph: bytes, where: str) -> Names:
    """The names of what `graph`, a serialised TrackableObjectGraph, refers to.

    Raises:
        FormatError: it cannot be understood.
        UnsafeContentError: it is impossibly large.
    """
    nodes: list[Fields] = []
    left = bounds.most(MOST)
    for raw in datas(parse(graph, where), 1):
        nodes.append(parse(raw, where))
        left -= 1 + sum(map(len, nodes[-1].values()))
        if left < 0:
            raise bounds.too_much("the graph of objects is impossibly large", where, bound=MOST)
    children = [[parse(child, where) for child in datas(node, 1)] for node in nodes]
    slots = [[parse(slot, where) for slot in datas(node, 3)] for node in nodes]
    routes = _routes(children)
    for owner, listed in enumerate(slots):
        for slot in listed:
            variable, target = number(slot, 1), number(slot, 3)
            if owner in routes and variable in routes and target not in routes:
                routes[target] = (*routes[owner], text(slot, 2), *routes[variable])
    paths: dict[str, str] = {}
    full = {}
    taken = set()
    for index, node in enumerate(nodes):
        route = routes.get(index)
        for attribute in (parse(attribute, where) for attribute in datas(node, 2)):
            key = data(attribute, 3).decode("utf-8", "surrogateescape")
            if text(attribute, 2):
                full[key] = text(attribute, 2)
            if route is None or not key:
                continue
            name = text(attribute, 1)
            if sum(map(len, route)) + len(route) + len(name) > LONGEST:
                continue
            path = join(route if name == VALUE else (*route, name))
            if path and path not in taken:
                taken.add(path)
                paths.setdefault(key, path)
    return Names(paths, full)


def path_of(key: str) -> str:
    """The path of what stands under `key` and in no graph: its parts are divided by slashes.

    Example:
        >>> path_of("dense/kernel"), path_of("model/a.Sb/.ATTRIBUTES/VARIABLE_VALUE")
        ('dense/kernel', 'model/a~1b')
    """
    name, mark, attribute = key.rpartition(ATTRIBUTES)
    if not mark:
        return divided(key)
    parts = [_ESCAPED.sub(lambda found: "/" if found[1] == "S" else ".", part) for part in name.split("/")]
    return join(parts if attribute == VALUE else [*parts, attribute])


def _routes(children: list[list[Fields]]) -> dict[int, tuple[str, ...]]:
    """The names that lead from the first object to each: as few as can be, and through no list of variables if it can be helped."""
    routes: dict[int, tuple[str, ...]] = {}
    waiting: list[tuple[int, int, int, tuple[str, ...]]] = [(0, 0, 0, ())] if children else []
    order = 0
    while waiting:
        cost, _, node, route = heapq.heappop(waiting)
        if node in routes:
            continue
        routes[node] = route
        if len(route) == DEEPEST:
            continue
        for child in children[node]:
            target, name = number(child, 1), text(child, 2)
            if target < len(children) and target not in routes:
                order += 1
                further = cost + 1 + _DETOUR * (name in _LISTS)
                heapq.heappush(waiting, (further, order, target, (*route, name)))
    return routes
