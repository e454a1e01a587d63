"""`milepost.transfer`: the weights of a checkpoint, of whatever format, into a live model."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from milepost.core import words
from milepost.core.source import TensorSource, TensorSpec
from milepost.core.table import Cell, Column, Styled, table
from milepost.core.text import safe
from milepost.errors import Mismatch, MismatchError, ScriptError
from milepost.ops import renaming
from milepost.ops.counterparts import Named, Pairing, Target, is_weight, pair
from milepost.ops.matching import select
from milepost.ops.refs import open as open_source

TARGETS = {
    "keras": "milepost.keras.target",
    "torch": "milepost.torch.target",
    "tensorflow": "milepost.tensorflow.target",
}
"""Top-level module of an object's class or of a base of it -> module with a `TargetMaker`, ``make_target``."""


_TWICE = re.compile(r"(^|/)([^/]+)/(?=(?:[^/]+/)?\2/)")


class TargetMaker(Protocol):
    """What a framework's module offers: an object as a target, or None."""

    def __call__(self, value: Any, *, everything: bool) -> Target | None: ...


@dataclass(frozen=True)
class TransferReport:
    """What `transfer` did, or would do.

    Names are those of the target, paths those of the source. `acceptable` says whether a strict transfer takes place.
    """

    source: str
    target: str
    matched_by: str
    """How names were found to belong together: by "name", "name, numbers aside", or "shape"."""
    loaded: Mapping[str, str] = field(repr=False)
    """Name -> path of what is loaded."""
    cast: Mapping[str, str] = field(repr=False)
    """Name -> both element types in words, of what is loaded and has another one there."""
    mismatched: tuple[Mismatch, ...]
    """What belongs together and does not fit: another shape, or a type that is no wider or narrower form of the same."""
    missing: tuple[str, ...]
    """Names that the source has nothing for."""
    unexpected: tuple[str, ...]
    """Paths of weights that the target has no place for."""
    beside: tuple[str, ...] = field(repr=False)
    """Paths of what is not meant for a model: optimizer state, counters, random state, other models."""
    nbytes: int
    """Bytes that are loaded, as the target holds them."""
    applied: bool
    """Whether the target has them now."""

    @property
    def renamed(self) -> dict[str, str]:
        """Those of `loaded` whose name and path differ."""
        return {name: path for name, path in self.loaded.items() if name != path}

    @property
    def acceptable(self) -> bool:
        """Whether everything has its place."""
        return bool(self.loaded) and not (self.mismatched or self.missing or self.unexpected)

    def summary(self) -> str:
        """How much is loaded, in a line."""
        verb = "loaded" if self.applied else "would be loaded"
        parts = [f"{words.count(len(self.loaded), 'tensor')} {verb}, {words.size(self.nbytes)}, by {self.matched_by}"]
        for number, what in (
            (len(self.cast), "cast"), (len(self.mismatched), "mismatched"), (len(self.missing), "missing"),
            (len(self.unexpected), "unexpected"), (len(self.beside), "beside"),
        ):  # fmt: skip
            if number:
                parts.append(f"{number:,} {what}")
        return "; ".join(parts)

    def __str__(self) -> str:
        lines, _ = table(COLUMNS, rows_of(self))
        return "\n".join([f"{safe(self.source)} → {safe(self.target)}", *lines, self.summary()])


COLUMNS = [Column("", least=1), Column("NAME", least=20, end=True), Column("PATH IN THE SOURCE", least=20, end=True),
           Column("NOTES", least=12)]  # fmt: skip
"""Of the table of a transfer."""


def rows_of(report: TransferReport) -> list[list[Cell]]:
    """A row for each name and each unexpected path."""
    rows: list[list[Cell]] = [
        [Styled("=", "dim"), safe(name), safe(path), report.cast.get(name, "")] for name, path in report.loaded.items()
    ]
    rows += [
        [Styled("~", "red"), safe(row.path), "", safe(f"{row.saved} there, {row.here} here")]
        for row in report.mismatched
    ]
    rows += [[Styled("-", "red"), safe(name), "", "missing"] for name in report.missing]
    return rows + [[Styled("+", "yellow"), "", safe(path), "unexpected"] for path in report.unexpected]


def transfer(
    source: TensorSource | str | os.PathLike[str],
    target: Any,
    *,
    rename: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    strict: bool = True,
    dry_run: bool = False,
) -> TransferReport:
    """Load the weights of a checkpoint into a live model: everything or nothing.

    What belongs together is found by names as each library writes them (``layer_with_weights-0/kernel`` of tf.keras is the first
    layer with weights), below whatever folder of the checkpoint the model is in. Floats are cast to the target's type, and so are
    integers. Optimizer state and counters of the source are left aside.

    Args:
        source: as `milepost.open` returns it, or the REF to open.
        target: a Keras model, a torch module, or anything that TensorFlow tracks. It must have its variables.
        rename: old to new: paths of the source that are called otherwise in the target, what they begin with, or patterns.
        include: only these paths of the source, and what is below them; ``*`` and ``?`` stand for any characters.
        exclude: not these.
        strict: everything must have its place: nothing missing, unexpected or of another shape. If False, what fits is loaded,
            and the rest of the target stays as it is.
        dry_run: change nothing; the report says what would be.

    Raises:
        MismatchError: they do not fit together; the target is as it was.
        ScriptError: several parts of the source fit; the target is none; `rename` cannot be applied.
        NotFoundError: nothing of the source is meant by `include` or `exclude`.
        DamagedError: bytes differ from their digest; the target is as it was.
        others as `milepost.open`.

    Example:
        >>> print(milepost.transfer("training/cp-0008.ckpt", model).summary())
        4 tensors loaded, 1.63 MB, by name; 10 beside
    """
    source = source if isinstance(source, TensorSource) else open_source(source)
    goal = target_of(target)
    tensors = chosen(source, rename=rename, include=include, exclude=exclude)
    found = pair(goal, source, tensors)
    report = report_of(goal, source, tensors, found)
    if not dry_run:
        if strict:
            check(report, goal, source)
        if not report.loaded:
            raise MismatchError(f"nothing in the source fits {goal.where}", where=source.where)
        goal.load(read(report, goal, source))
        report = replace(report, applied=True)
    return report


def target_of(value: Any, *, everything: bool = False) -> Target:
    """A live object as a target.

    Args:
        value: the object.
        everything: of a model also what are no weights: metrics and random state.

    Raises:
        ScriptError: it is none, or has no variables yet.
    """
    for base in type(value).__mro__:
        module = TARGETS.get(base.__module__.partition(".")[0])
        if module is not None:
            found = cast("TargetMaker", importlib.import_module(module).make_target)(value, everything=everything)
            if found is not None:
                return found
    raise ScriptError(
        "weights cannot be loaded into this",
        expected="a Keras model, a torch module, or what TensorFlow tracks",
        found=type(value).__name__,
    )


def chosen(
    source: TensorSource,
    *,
    rename: Mapping[str, str] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> list[Named]:
    """The tensors of `source` that are meant, with the names they go by; raises as `transfer` does."""
    paths = list(source.specs)
    if include is not None:
        wanted = _meant(source, include)
        paths = [path for path in paths if path in wanted]
    if exclude is not None:
        unwanted = _meant(source, exclude)
        paths = [path for path in paths if path not in unwanted]
    names = renaming.rename(paths, rename or {})
    if names.unmatched:
        raise ScriptError("nothing in the source is called so", where="rename=", found=", ".join(names.unmatched))
    return [Named(path, _names(path, source) if new == path else (new,)) for new, path in names.names.items()]


def _names(path: str, source: TensorSource) -> tuple[str, ...]:
    """What a tensor is called: its path; the name it had in the program, where the file has it beside the path, or in it (HDF5 as
    Keras 2 wrote it: that of the layer, then the name of the variable, where that of the layer may come again); the last two
    levels of that, which are the layer and the variable wherever these are."""
    own = source.notes[path] if path in source.notes else _TWICE.sub(r"\1", path.removesuffix(":0"))
    return path, own, "/".join(own.split("/")[-2:])


def _meant(source: TensorSource, wanted: str | Iterable[str]) -> set[str]:
    return set(select(source, [wanted] if isinstance(wanted, str) else list(wanted)))


def report_of(goal: Target, source: TensorSource, tensors: Iterable[Named], found: Pairing) -> TransferReport:
    """What comes of `found`."""
    loaded: dict[str, str] = {}
    casts: dict[str, str] = {}
    mismatched = []
    for name, slot in goal.slots.items():
        path = found.pairs.get(name)
        if path is None:
            continue
        there = source.specs[path]
        if there.shape != slot.spec.shape or not _castable(there, slot.spec):
            mismatched.append(Mismatch(name, _shown(there), _shown(slot.spec)))
            continue
        loaded[name] = path
        if there.dtype != slot.spec.dtype:
            casts[name] = f"{there.dtype.name} → {slot.spec.dtype.name}"
    reached = {goal.slots[name].memory for name in found.pairs} - {None}
    used = set(found.pairs.values())
    unexpected: list[str] = []
    beside: list[str] = []
    for one in tensors:
        if one.path not in used:
            for_it = one.path in found.inside and (not goal.weights or is_weight(one.path, source))
            (unexpected if for_it else beside).append(one.path)
    return TransferReport(
        source=source.where,
        target=goal.where,
        matched_by=found.how,
        loaded=loaded,
        cast=casts,
        mismatched=tuple(mismatched),
        missing=tuple(
            name for name, slot in goal.slots.items() if name not in found.pairs and slot.memory not in reached
        ),
        unexpected=tuple(unexpected),
        beside=tuple(beside),
        nbytes=sum(goal.slots[name].spec.nbytes for name in loaded),
        applied=False,
    )


def check(report: TransferReport, goal: Target, source: TensorSource) -> None:
    """Raises `MismatchError`, with a row for each name and path, if not everything has its place."""
    if not report.acceptable:
        raise MismatchError(
            f"the source does not fit {goal.where}: it is as it was",
            rows=tuple(mismatches(report, goal, source)),
            where=source.where,
            hint="rename= says what is called otherwise, exclude= leaves out, strict=False takes what fits",
        )


def mismatches(report: TransferReport, goal: Target, source: TensorSource) -> list[Mismatch]:
    """A row for each name and path that has no place."""
    return [
        *report.mismatched,
        *(Mismatch(name, "nothing", _shown(goal.slots[name].spec)) for name in report.missing),
        *(Mismatch(path, _shown(source.specs[path]), "nothing") for path in report.unexpected),
    ]


def read(report: TransferReport, goal: Target, source: TensorSource) -> dict[str, npt.NDArray[Any]]:
    """What is to be loaded, verified and cast.

    Raises:
        MismatchError: a number does not fit into the type of the target, or what is one tensor there is two in the source.
        DamagedError: as reading it does.
    """
    values: dict[str, npt.NDArray[Any]] = {}
    tied: dict[Any, str] = {}
    for name, path in report.loaded.items():
        slot = goal.slots[name]
        values[name] = array = _cast(source[path], slot.spec, name, path)
        first = tied.setdefault(slot.memory, name) if slot.memory is not None else name
        if first != name and array.tobytes() != values[first].tobytes():
            raise MismatchError(
                "these are one tensor in the target, and two that differ in the source",
                rows=(Mismatch(name, path, first), Mismatch(first, report.loaded[first], name)),
                where=source.where,
            )
    return values


def _cast(array: npt.NDArray[Any], to: TensorSpec, name: str, path: str) -> npt.NDArray[Any]:
    kind = to.dtype.numpy
    if kind is None or array.dtype == kind:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(kind)
        whole = kind.kind in "iub"
        lost = (made != array) if whole else (np.isfinite(array) & ~np.isfinite(made))
    if np.any(lost):
        raise MismatchError(
            "a number does not fit into the type of the target: it is as it was",
            rows=(Mismatch(name, f"{path} with numbers beyond it", to.dtype.name),),
        )
    return made


def _castable(there: TensorSpec, here: TensorSpec) -> bool:
    one, other = there.dtype, here.dtype
    if one == other:
        return True
    if one.numpy is None or other.numpy is None or "complex" in one.name + other.name:
        return False
    return one.floating == other.floating and "bool" not in (one.name, other.name)


def _shown(spec: TensorSpec) -> str:
    return f"{spec.dtype.name} {list(spec.shape)}"
