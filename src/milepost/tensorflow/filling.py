"""Which value of a source goes under which key of a TensorFlow checkpoint of some live objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import tensorflow as tf

from milepost.core.source import TensorSource
from milepost.errors import Mismatch, MismatchError, ScriptError
from milepost.ops.counterparts import Named, Pairing, Part, Slot, Target, pair
from milepost.ops.transfer import TransferReport, mismatches, read, report_of, target_of
from milepost.tensorflow.graph import Saved
from milepost.tensorflow.items import held, variables_below
from milepost.tensorflow.target import spec_of


class Filling(NamedTuple):
    """By key the value that stands under it, and the paths of the source that were not used."""

    values: dict[str, npt.NDArray[Any]]
    left_out: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return sum(value.nbytes for value in self.values.values())


def fill(
    source: TensorSource, tensors: Sequence[Named], objects: Mapping[str, Any], saved: Sequence[Saved], *, strict: bool
) -> Filling:
    """Find the values for what TensorFlow saves of `objects`.

    Args:
        source: where they are.
        tensors: those of it that may be used.
        objects: the live objects by name; what the source has in a folder of that name is for that object.
        saved: what TensorFlow saves of them.
        strict: see `milepost.tensorflow.writer.export`.

    Raises:
        MismatchError: something of the objects is not in the source, or the other way round, or has another shape.
        ScriptError: TensorFlow does not save all weights of the objects, or several parts of the source fit.
    """
    keys = {id(one.variable): one.key for one in saved}
    having = {name: one for name, one in objects.items() if variables_below(one) or getattr(one, "weights", None)}
    found: list[tuple[Target, TransferReport]] = []
    rows: list[Mismatch] = []
    for name, one in having.items():
        goal = target_of(one)
        _check_saved(goal, keys)
        scope = _scope(name, tensors, objects)
        report = report_of(goal, source, scope, pair(goal, source, scope))
        rows += mismatches(report, goal, source)
        found.append((goal, report))
    rest = _unused(tensors, found)
    for name, one in having.items():  # metrics and random state, where they are called the same
        everything = target_of(one, everything=True)
        done = {id(held(goal.live(slot))) for goal, _ in found for slot in goal.slots}
        goal = Part(everything, [slot for slot in everything.slots if id(held(everything.live(slot))) not in done])
        scope = _scope(name, rest, objects)
        found.append((goal, report_of(goal, source, scope, pair(goal, source, scope))))
    reached = {keys.get(id(held(goal.live(name)))) for goal, report in found for name in report.loaded}
    told = {keys.get(id(held(goal.live(name)))) for goal, _ in found for name in goal.slots}
    others = Others([one for one in saved if one.key not in reached])  # slots of optimizers
    rest = _unused(tensors, found)
    report = report_of(others, source, rest, others.pairing(rest))
    found.append((others, report))
    steppers = tuple(f"{name}/" for name, one in having.items() if hasattr(one, "apply_gradients"))
    missing = [name for name in report.missing if name.startswith(steppers) and others.live(name).key not in told]
    rows += [Mismatch(name, "nothing", others.slots[name].spec.dtype.name) for name in missing]
    if strict and rows:
        raise MismatchError(
            "the source does not fit the objects: nothing is written", rows=tuple(rows), where=source.where,
            hint="rename= says what is called otherwise, leave_out= leaves out, strict=False writes what fits",
        )  # fmt: skip
    values: dict[str, npt.NDArray[Any]] = {}
    used = set()
    for goal, report in found:
        for name, value in read(report, goal, source).items():
            live = goal.live(name)
            key = live.key if isinstance(live, Saved) else keys.get(id(held(live)))
            if key is not None:
                values.setdefault(key, value)
                used.add(report.loaded[name])
    return Filling(values, tuple(one.path for one in tensors if one.path not in used))


class Others:
    """What is saved beside the variables of the objects, under the paths it has in the checkpoint, as a target."""

    where = "the checkpoint of the objects"
    weights = False
    numbered: Sequence[Mapping[str, str]] = ()

    def __init__(self, saved: Sequence[Saved]) -> None:
        self._saved = {one.path: one for one in saved}
        self.slots: Mapping[str, Slot] = {one.path: Slot(one.path, spec_of(one.variable)) for one in saved}

    def find(self, path: str) -> str | None:
        return path if path in self.slots else None

    def live(self, name: str) -> Saved:
        return self._saved[name]

    def load(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        raise AssertionError("nothing is loaded into it")

    def pairing(self, tensors: Sequence[Named]) -> Pairing:
        """By path alone."""
        return Pairing(
            {one.names[0]: one.path for one in tensors if one.names[0] in self.slots}, "", frozenset(), "name"
        )


def _unused(tensors: Sequence[Named], found: Sequence[tuple[Target, TransferReport]]) -> list[Named]:
    used = {path for _, report in found for path in report.loaded.values()}
    return [one for one in tensors if one.path not in used]


def _scope(name: str, tensors: Sequence[Named], objects: Mapping[str, Any]) -> list[Named]:
    """What the source has in the folder of an object, as seen from there; if it has none, all that is in no other object's."""
    if isinstance(objects[name], tf.Variable):
        tensors = [Named(one.path, (f"{name}/value",)) if one.names[0] == name else one for one in tensors]
    own = [
        Named(one.path, (one.names[0].removeprefix(f"{name}/"), *one.names[1:]))
        for one in tensors
        if name and one.names[0].startswith(f"{name}/")
    ]
    others = tuple(f"{other}/" for other in objects if other and other != name)
    return own or [one for one in tensors if not one.names[0].startswith(others)]


def _check_saved(goal: Target, keys: Mapping[int, str]) -> None:
    lost = [name for name in goal.slots if id(held(goal.live(name))) not in keys]
    if lost:
        raise ScriptError(
            f"TensorFlow does not save {len(lost)} of the {len(goal.slots)} variables of {goal.where}",
            found=", ".join(lost[:8]) + (", ..." if len(lost) > 8 else ""),
            hint="Keras 3 hides layers in lists and dicts from it: make each an attribute, or write .weights.h5",
        )
