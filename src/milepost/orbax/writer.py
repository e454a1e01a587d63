"""The writer of Orbax checkpoints for `milepost.ops.export`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from milepost.core.source import TensorSource
from milepost.errors import DamagedError, NotStorableError, ScriptError, StepError
from milepost.formats.detect import open_source
from milepost.ops.appearing import publish, workspace
from milepost.ops.export import Exported
from milepost.orbax.process import Saver
from milepost.orbax.tree import LEAVES, Tree, tree_of

LAYOUTS = {"tree": "", "step": "default", "v1": "state", "items": None}
"""How the state lies in the folder -> the name of the item that all of it is; None: each item of the run is one."""
_STEP = re.compile(r"(?:.*[_-])?([0-9]{1,18})")


class _Plan(NamedTuple):
    """What the options ask for."""

    layout: str
    only: str | None
    leave_out: Sequence[str]


class _Saved(NamedTuple):
    folder: str
    tensors: int
    nbytes: int
    left_out: tuple[str, ...]


def export(
    source: TensorSource,
    destination: str,
    *,
    layout: str | None = None,
    only: str | None = None,
    leave_out: Sequence[str] = (),
) -> Exported:
    """Write `source` as an Orbax checkpoint.

    Args:
        source: the checkpoint.
        destination: a new folder. If its name is a step (``8``, ``ckpt_00000008``), it is a step of the `CheckpointManager` of the
            folder above it, else what `StandardCheckpointer` saves; `layout` decides otherwise.
        layout: ``"tree"``: as `StandardCheckpointer.save`. ``"step"``: as `CheckpointManager.save` of one tree. ``"items"``: the
            same with each item of the run as an item of its own. ``"v1"``: as ``training.Checkpointer.save`` of the new interface.
        only: a path: what is at it is all that is written, ``"params"`` for example.
        leave_out: paths or patterns of what is not written.

    Raises:
        as `milepost.export`.
    """
    named = _STEP.fullmatch(os.path.basename(destination.rstrip("/")))
    plan = _Plan(_checked(layout or ("step" if named else "tree")), only, _listed(leave_out))
    step = int(named[1]) if named else source.metadata.get("step")
    with workspace(destination) as work, Saver() as saver:
        saved = _save(saver, source, work, plan, step if type(step) is int else 0)
        publish(saved.folder, destination)
    return Exported(destination, "orbax", 1, saved.tensors, saved.nbytes, saved.left_out)


def export_run(
    sources: Iterable[TensorSource],
    destination: str,
    *,
    layout: str = "step",
    only: str | None = None,
    leave_out: Sequence[str] = (),
) -> Exported:
    """Write `sources` as the steps of one `CheckpointManager`, with their metrics; see `export`.

    Raises:
        StepError: one has no step, or the step of an earlier one.
        besides as `milepost.export`.
    """
    plan = _Plan(_checked(layout), only, _listed(leave_out))
    if layout == "tree":
        raise ScriptError("a tree is one checkpoint, not a run", expected="layout: step, items or v1")
    done: dict[int, _Saved] = {}
    with workspace(destination) as work, Saver() as saver:
        for source in sources:
            step = source.metadata.get("step")
            if type(step) is not int or step in done:
                raise StepError("each checkpoint of a run has a step of its own", where=source.where, found=repr(step))
            done[step] = _save(saver, source, work, plan, step)
        publish(f"{work}/run", destination)
    left_out = dict.fromkeys(path for one in done.values() for path in one.left_out)
    tensors, nbytes = (sum(getattr(one, name) for one in done.values()) for name in ("tensors", "nbytes"))
    return Exported(destination, "orbax", len(done), tensors, nbytes, tuple(left_out))


def _checked(layout: str) -> str:
    if layout not in LAYOUTS:
        raise ScriptError(f"there is no layout {layout!r}", expected=", ".join(LAYOUTS))
    return layout


def _listed(leave_out: Sequence[str]) -> list[str]:
    return [leave_out] if isinstance(leave_out, str) else list(leave_out)


def _save(saver: Saver, source: TensorSource, work: str, plan: _Plan, step: int) -> _Saved:
    """Let Orbax write one checkpoint below `work`, and compare what is there then with what was handed over."""
    trees, origins = _trees(source, plan)
    metrics, about = _told(source)
    folder = f"{work}/run"
    handed = saver.save(
        source, trees, origins, layout=plan.layout, folder=folder, step=step, metrics=metrics, about=about
    )
    made = folder if plan.layout == "tree" else f"{folder}/{step}"
    for name, tree in trees.items():
        _compare(f"{made}/{name}".rstrip("/"), tree, handed[name])
    tensors = sum(len(one) for one in handed.values())
    nbytes = sum(array.nbytes for one in handed.values() for array in one.values())
    return _Saved(made, tensors, nbytes, tuple(path for tree in trees.values() for path in tree.left_out))


def _trees(source: TensorSource, plan: _Plan) -> tuple[dict[str, Tree], dict[str, str]]:
    """The trees by the name of their item, and what the paths of each begin with in `source`."""
    name = LAYOUTS[plan.layout]
    whole = tree_of(source, plan.only, plan.leave_out)
    under = f"{plan.only}/" if plan.only else ""
    if name is not None:
        return {name: whole}, {name: under}
    if whole.node[0] not in ("dict", "named"):
        raise ScriptError("items have names, and a sequence has none", where=source.where, hint="layout='step'")
    trees, origins = {}, {}
    for key, node in whole.node[-1].items():
        if node[0] in LEAVES or not node[-1] or "/" in key or "~" in key or key in ("metrics", ""):
            raise NotStorableError(
                "this can be no item of Orbax, which has to be a container with a plain name",
                where=under + key, hint="layout='step' keeps it in one tree",
            )  # fmt: skip
        trees[key] = tree_of(source, under + key, plan.leave_out)
        origins[key] = f"{under}{key}/"
    return trees, origins


def _told(source: TensorSource) -> tuple[dict[str, float] | None, dict[str, Any]]:
    """The metrics, and what else is known, for Orbax' custom metadata."""
    known = source.metadata
    metrics = {name: float(value) for name, value in dict(known.get("metrics") or {}).items()}
    about = {key: known[key] for key in ("run", "attempt", "step", "epoch", "batch", "phase", "time") if key in known}
    return metrics or None, {"milepost": {**about, "source": source.where}}


def _compare(folder: str, tree: Tree, handed: dict[str, npt.NDArray[Any]]) -> None:
    """Raise `DamagedError` unless `folder` holds exactly what was handed over."""
    found = open_source(folder)
    if found is None:
        raise DamagedError("what Orbax wrote cannot be read back", where=folder)
    numbers = {path: np.asarray(value) for path, value in tree.values.items() if isinstance(value, int | float)}
    expected = handed | numbers
    wrong = sorted(set(found.specs) ^ set(expected))
    wrong += [path for path, array in expected.items() if path not in wrong and not _same(found[path], array)]
    texts = {path: value for path, value in tree.values.items() if path not in numbers}
    wrong += [path for path, value in texts.items() if path not in found.plain or found.plain[path] != value]
    if wrong:
        raise DamagedError("what Orbax wrote is not what it was given", where=folder, found=", ".join(wrong[:5]))


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two arrays are the same in type, shape and every bit that an element has."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.name.startswith(("int4", "int2", "float4")):  # the rest of the byte is nobody's
        a, b = a.astype(np.float32), b.astype(np.float32)
    return math.prod(a.shape) == 0 or np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))
