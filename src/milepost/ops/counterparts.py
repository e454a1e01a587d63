"""Which tensor of a checkpoint belongs to which of a model.

Three ways are tried, and one holds only if it gives every tensor of the model one of its shape: the names; the names without the
numbers that Keras gives to what is made twice (``dense_3`` is the first of a process that made three before); the shapes, where
nothing else can be meant. What several parts of a checkpoint fit equally is not guessed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from milepost.core.source import TensorSource, TensorSpec
from milepost.core.words import count, shape
from milepost.errors import ScriptError
from milepost.ops.holding import part_of

DEEPEST = 3
"""Levels above a model in a checkpoint that are looked through for it."""

_NUMBER = re.compile(r"_(\d+)(?=[_/.]|$)")
_DIGITS = re.compile(r"\d+")
_LEVEL = re.compile(r"[/.]")


_BESIDE = frozenset({
    "metrics", "_metrics", "loss_tracker", "_loss_tracker", "compile_metrics", "_compile_metrics", "keras_api", "_all_variables"
})  # fmt: skip
"""What models of Keras keep beside their weights, and where they list these a second time."""


class Slot(NamedTuple):
    """A tensor of the target. Those of equal `memory` are one (tied weights)."""

    name: str
    spec: TensorSpec
    memory: Hashable | None = None


class Target(Protocol):
    """A live object that tensors are loaded into."""

    where: str
    """What it is, for people."""
    weights: bool
    """Whether it has weights alone, so that what else is in a checkpoint is not for it."""
    slots: Mapping[str, Slot]
    """By name, in the order of its layers."""
    numbered: Sequence[Mapping[str, str]]
    """Where names have numbers that mean nothing: by spelling (all with what is above the layers, or all without), the name that a
    path may be, to that of the slot."""

    def find(self, path: str) -> str | None:
        """The name of the slot that a checkpoint, whose first object is this one, has at `path`; None if it means nothing here. A
        path comes from a file: it is looked up, and nothing it names is called."""

    def live(self, name: str) -> Any:
        """The live tensor or variable of a slot."""

    def load(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put arrays, of the type and shape of their slots, into the object: all of them or, where it raises, none."""


class Part:
    """Some of the slots of a target, as a target."""

    def __init__(self, whole: Target, names: Iterable[str]) -> None:
        self.where, self.weights, self.live, self.load = whole.where, whole.weights, whole.live, whole.load
        self.slots: Mapping[str, Slot] = {name: whole.slots[name] for name in names}
        self.numbered: Sequence[Mapping[str, str]] = [
            {spelled: name for spelled, name in spelling.items() if name in self.slots} for spelling in whole.numbered
        ]
        self._find = whole.find

    def find(self, path: str) -> str | None:
        """See `Target`."""
        found = self._find(path)
        return found if found in self.slots else None


class Pairing(NamedTuple):
    """Slot -> path in the source, the folder the model is in there, all that is in it, and how that was found."""

    pairs: Mapping[str, str]
    above: str
    inside: frozenset[str]
    how: str


class Named(NamedTuple):
    """A tensor of the source: its path there, and the names it goes by, the first of which counts most."""

    path: str
    names: tuple[str, ...]


def pair(target: Target, source: TensorSource, tensors: Sequence[Named]) -> Pairing:
    """Find the tensor of `source` for each slot; where no way finds all, what most names say.

    Args:
        target: what they are for.
        source: where they are.
        tensors: those of the source that may be used.

    Raises:
        ScriptError: several parts of the source fit.
    """
    weights = [one for one in tensors if not target.weights or is_weight(one.path, source)]
    by_name = list(_by_name(target, weights))
    numbers_aside = list(_numbers_aside(target, weights))
    any_name = list(_by_name(target, tensors))
    best = max(
        [*by_name, *numbers_aside, *any_name],
        key=lambda one: (_fitting(one, target, source), -one.above.count("/")),
        default=None,
    )
    for ways in (
        lambda: by_name,
        lambda: numbers_aside,
        lambda: _by_shape(target, source, weights) if best is None else (),
        lambda: any_name,  # a layer may be called as an optimizer's state is
    ):  # each is asked for only if those before it found nothing
        whole: dict[frozenset[tuple[str, str]], Pairing] = {}
        for one in ways():
            same = frozenset(one.pairs.items())
            if _is_whole(one, target, source) and (same not in whole or len(one.inside) < len(whole[same].inside)):
                whole[same] = one
        if len(whole) > 1:
            raise _ambiguous(target, list(whole.values()))
        if whole:
            return next(iter(whole.values()))
    return best or Pairing({}, "", frozenset(), "name")


def is_weight(path: str, source: TensorSource) -> bool:
    """Whether the tensor at `path` may be one of a model, rather than optimizer state, a counter or a metric."""
    names = [path, source.notes[path]] if path in source.notes else [path]
    return all(part_of(name, source) is None and _BESIDE.isdisjoint(name.split("/")) for name in names)


def _is_whole(found: Pairing, target: Target, source: TensorSource) -> bool:
    reached = {target.slots[name].memory for name in found.pairs} - {None}
    return all(
        source.specs[found.pairs[name]].shape == slot.spec.shape if name in found.pairs else slot.memory in reached
        for name, slot in target.slots.items()
    )


def _fitting(found: Pairing, target: Target, source: TensorSource) -> int:
    return sum(source.specs[path].shape == target.slots[name].spec.shape for name, path in found.pairs.items())


def _by_name(target: Target, tensors: Sequence[Named]) -> Iterator[Pairing]:
    """What the first names say, and what the second, below each folder in turn."""
    for rank in range(max((len(one.names) for one in tensors), default=0)):
        names = [(one.names[min(rank, len(one.names) - 1)], one.path) for one in tensors]
        for above, inside in _folders(names):
            pairs: dict[str, str] = {}
            twice = False
            for name, path in inside:
                slot = target.find(name)
                twice |= slot is not None and pairs.setdefault(slot, path) != path
            if pairs and not twice:
                yield Pairing(pairs, above, _paths(inside), "name")


def _folders(names: Sequence[tuple[str, str]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The folders that a model may be in, each with the names of what is in it, relative to it."""
    folders: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, path in names:
        folders[""].append((name, path))
        at = -1
        for _ in range(DEEPEST):
            at = name.find("/", at + 1)
            if at < 0:
                break
            folders[name[: at + 1]].append((name[at + 1 :], path))
    yield from folders.items()


def _paths(inside: Sequence[tuple[str, str]]) -> frozenset[str]:
    return frozenset(path for _, path in inside)


def _numbers_aside(target: Target, tensors: Sequence[Named]) -> Iterator[Pairing]:
    for spelling in target.numbered:
        wanted = _families((name, slot) for name, slot in spelling.items())
        for rank in range(max((len(one.names) for one in tensors), default=0)):
            names = [(one.names[min(rank, len(one.names) - 1)], one.path) for one in tensors]
            for above, inside in _folders(names):
                there = _families(inside)
                pairs = {
                    slot: path
                    for family, slots in wanted.items()
                    if len(there.get(family, ())) == len(slots)
                    for slot, path in zip(slots, there[family], strict=True)
                }
                if pairs:
                    yield Pairing(pairs, above, _paths(inside), "name, numbers aside")


def _families(names: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """By name without numbers, those that have it in the order of their numbers."""
    found: dict[str, list[tuple[list[int], str]]] = defaultdict(list)
    for name, what in names:
        numbers = [int(number) for number in _NUMBER.findall(name)]
        found[_NUMBER.sub("", name)].append((numbers, what))
    return {family: [what for _, what in sorted(members)] for family, members in found.items()}


Layer = dict[str, str]
"""By the last part of its name: what a tensor of the layer is."""


def _by_shape(target: Target, source: TensorSource, tensors: Sequence[Named]) -> Iterator[Pairing]:
    """Layers that have the same tensors, by name and shape. Of those that are alike, the order counts if they are numbered."""
    here = _alike(_layers((name, name) for name in target.slots), lambda name: target.slots[name].spec.shape)
    for above, inside in _folders([(one.names[0], one.path) for one in tensors]):
        there = _alike(_layers(inside), lambda path: source.specs[path].shape)
        if {kind: len(layers) for kind, layers in there.items()} != {
            kind: len(layers) for kind, layers in here.items()
        }:
            continue
        pairs: dict[str, str] = {}
        for kind, layers in here.items():
            found = there[kind]
            if len(found) > 1:
                order = _order(list(found))
                if order is None:
                    raise _alike_layers(target, list(layers), [above + name for name in found])
                found = {name: found[name] for name in order}
            for ours, theirs in zip(layers.values(), found.values(), strict=True):
                pairs |= {slot: theirs[last] for last, slot in ours.items()}
        yield Pairing(pairs, above, _paths(inside), "shape")


def _layers(names: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> dict[str, Layer]:
    layers: dict[str, Layer] = defaultdict(dict)
    for name, what in names:
        *above, last = _LEVEL.split(name)
        layers[name[: len(name) - len(last)] if above else ""][last.removesuffix(":0").lstrip("_")] = what
    return layers


def _alike(
    layers: Mapping[str, Layer], shape_of: Callable[[str], tuple[int, ...]]
) -> dict[frozenset[tuple[str, tuple[int, ...]]], dict[str, Layer]]:
    found: dict[frozenset[tuple[str, tuple[int, ...]]], dict[str, Layer]] = defaultdict(dict)
    for name, layer in layers.items():
        found[frozenset((last, shape_of(what)) for last, what in layer.items())][name] = layer
    return found


def _order(names: list[str]) -> list[str] | None:
    """`names` in the order of the numbers in them; None if they differ in anything else."""
    if len({_DIGITS.sub("", name) for name in names}) > 1:
        return None
    return sorted(names, key=lambda name: [int(number) for number in _DIGITS.findall(name)])


def _ambiguous(target: Target, found: Sequence[Pairing]) -> ScriptError:
    name = next(name for name in target.slots if len({one.pairs.get(name) for one in found}) > 1)
    candidates = [f"{one.pairs[name]!r}" for one in found if name in one.pairs]
    above = next((one.above for one in found if one.above), "")
    return ScriptError(
        f"the source fits {target.where} in {count(len(found), 'way')}: which is meant?",
        where=name,
        found=", ".join(candidates),
        hint=f"name what is to be used, as include={above + '*'!r}"
        if above
        else "give the names that differ with rename=",
    )


def _alike_layers(target: Target, ours: list[str], theirs: list[str]) -> ScriptError:
    wanted = next(slot for slot in target.slots if slot.startswith(ours[0]))
    return ScriptError(
        f"layers of {target.where} are alike, and neither names nor numbers tell them apart: "
        f"{wanted!r} is {shape(target.slots[wanted].spec.shape)}",
        where=", ".join(name.rstrip("/.") or name for name in ours),
        found=", ".join(name.rstrip("/.") or name for name in theirs),
        hint=f"say which is which: rename={{{theirs[0].rstrip('/.')!r}: {ours[0].rstrip('/.')!r}, ...}}",
    )
