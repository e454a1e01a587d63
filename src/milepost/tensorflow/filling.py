"""Which value of a source goes under which key of a TensorFlow checkpoint of some live objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import tensorflow as tf

from milepost.core.source import TensorSource
from milepost.errors import Mismatch, MismatchError, ScriptError
from milepost.ops.counterparts import Named, Target, pair
from milepost.ops.transfer import TransferReport, mismatches, read, report_of, target_of
from milepost.tensorflow.items import held, variables_below


class Filling(NamedTuple):
    """By key the value that stands under it, and the paths of the source that were not used."""

    values: dict[str, npt.NDArray[Any]]
    left_out: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return sum(value.nbytes for value in self.values.values())


def fill(
    source: TensorSource,
    tensors: Sequence[Named],
    objects: Mapping[str, Any],
    saved: Mapping[str, Any],
    *,
    strict: bool,
) -> Filling:
    """Find the values for what TensorFlow saves of `objects`.

    Args:
        source: where they are.
        tensors: those of it that may be used.
        objects: the live objects by name; what the source has in a folder of that name is for that object.
        saved: by key, the variables that TensorFlow saves of them.
        strict: see `milepost.tensorflow.writer.export`.

    Raises:
        MismatchError: something of the objects is not in the source, or the other way round, or has another shape.
        ScriptError: TensorFlow does not save all weights of the objects, or several parts of the source fit.
    """
    keys = {id(variable): key for key, variable in saved.items()}
    found: list[tuple[Target, TransferReport]] = []
    rows: list[Mismatch] = []
    for name, one in objects.items():
        if not variables_below(one):
            continue  # an iterator, or what is empty
        goal = target_of(one)
        _check_saved(goal, keys)
        scope = _scope(name, tensors, objects)
        report = report_of(goal, source, scope, pair(goal, source, scope))
        rows += mismatches(report, goal, source)
        found.append((goal, report))
    if strict and rows:
        raise MismatchError(
            "the source does not fit the objects: nothing is written", rows=tuple(rows), where=source.where,
            hint="rename= says what is called otherwise, exclude= leaves out, strict=False writes what fits",
        )  # fmt: skip
    used = {path for _, report in found for path in report.loaded.values()}
    rest = [one for one in tensors if one.path not in used]
    for name, one in objects.items():
        if variables_below(one):  # metrics and random state, where they are called the same
            goal = target_of(one, everything=True)
            scope = _scope(name, rest, objects)
            found.append((goal, report_of(goal, source, scope, pair(goal, source, scope))))
    values: dict[str, npt.NDArray[Any]] = {}
    for goal, report in found:
        for slot, value in read(report, goal, source).items():
            if (key := keys.get(id(held(goal.live(slot))))) is not None and key not in values:
                values[key] = value
                used.add(report.loaded[slot])
    return Filling(values, tuple(one.path for one in tensors if one.path not in used))


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
