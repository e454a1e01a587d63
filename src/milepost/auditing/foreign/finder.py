"""Which objects of a script carry state, found by the variables that lead to them, and what is in them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from milepost.auditing.evidence import Evidence
from milepost.auditing.foreign.records import STATEFUL
from milepost.core.leaves import Leaf, leaves
from milepost.core.paths import escape
from milepost.torch import scripts
from milepost.torch.watching import look_into
from milepost.training.rng import capture_generator


class Found(NamedTuple):
    """An object that carries state, by what the script calls it (``trainer/optimizer``)."""

    name: str
    kind: str
    object: Any


class Finder(Evidence):
    """Looks at the variables as an `Evidence` does, and sets objects that carry state apart."""

    def __init__(self) -> None:
        super().__init__()
        self._found: list[tuple[str, str, Any]] = []
        self._around: dict[int, list[tuple[str, weakref.ref[Any]]]] = {}

    def find(self, optimizer: Any) -> tuple[list[Found], list[Leaf]]:
        """The objects that carry state, those around `optimizer` (which is about to step) included; and the leaves of all
        variables beside them."""
        self._found = []
        beside = list(self.look(()))
        names: set[str] = set()
        found = []
        for path, kind, one in self._found:
            short = path.partition("/")[2]
            name = path if short in names else short
            names.add(name)
            found.append(Found(name, kind, one))
        known = {id(one.object) for one in found}
        for kind, one in self._others(optimizer, found):
            if id(one) not in known and not (kind == "module" and _is_part(one, found)):
                name = escape(type(one).__name__)
                number = sum(other.partition("#")[0] == name for other in names)
                names.add(f"{name}#{number + 1}" if number else name)
                found.append(Found(f"{name}#{number + 1}" if number else name, kind, one))
        return found, beside

    def _others(self, optimizer: Any, found: list[Found]) -> Iterator[tuple[str, Any]]:
        """What the script's variables do not lead to. It is looked for once for each optimizer that they do not lead to."""
        if id(optimizer) not in self._around:
            there = any(one.object is optimizer for one in found)
            trained = {id(one) for one in scripts.parameters_of(optimizer)}
            led_to = there and trained <= scripts.parameter_ids(one.object for one in found)
            around = [] if led_to else [("optimizer", optimizer), *scripts.around(optimizer)]
            self._around[id(optimizer)] = [(kind, weakref.ref(one)) for kind, one in around]
        for held in self._around.values():
            for kind, ref in held:
                one = ref()
                if one is not None:
                    yield kind, one

    def _children(self, value: Any, path: str) -> Mapping[Any, Any] | None:
        held = super()._children(value, path)
        kind = self._kinds.get(path)
        if not held or kind not in STATEFUL or not (kind == "generator" or scripts.has_state(value)):
            return held
        self._found.append((path, kind, value))
        if kind not in ("module", "metric"):
            return {}
        self._kinds[path] = "state"  # its attributes
        return cast("tuple[str, Mapping[str, Any]]", look_into(value, is_item=True))[1]


def _is_part(module: Any, found: list[Found]) -> bool:
    """Whether all that a module has is in others that were found."""
    there = scripts.parameter_ids(one.object for one in found)
    return scripts.parameter_ids([module]) <= there


def state(found: list[Found]) -> Iterator[Leaf]:
    """What a checkpoint has to hold: of optimizers, parameters that are in no module too."""
    there = scripts.parameter_ids(one.object for one in found)
    for one in found:
        if one.kind == "generator":
            continue
        yield from leaves(scripts.state_of(one.kind, one.object), one.name)
        if one.kind == "optimizer":
            for number, parameter in enumerate(scripts.parameters_of(one.object)):
                if id(parameter) not in there:
                    yield from leaves(parameter, f"{one.name}/parameters/{number}")


def made(found: list[Found], optimizer: Any) -> Iterator[Leaf]:
    """What forward and backward make: buffers, and the gradients by which `optimizer` is about to step."""
    there = scripts.parameter_ids(one.object for one in found)
    trained = {id(one) for one in scripts.parameters_of(optimizer)} if optimizer is not None else set()
    for one in found:
        held = scripts.made_of(one.object, trained)
        if held:
            yield from leaves(held, one.name)
        if one.object is optimizer:
            for number, parameter in enumerate(scripts.parameters_of(one.object)):
                if id(parameter) not in there and parameter.grad is not None:
                    yield from leaves(parameter.grad, f"{one.name}/parameters/{number}.grad")


def generators(found: list[Found]) -> Iterator[Leaf]:
    """The states of the generators that the script made itself."""
    for one in found:
        if one.kind == "generator":
            yield from leaves(capture_generator(one.object), f"generator/{escape(one.name)}")
