"""Saving by Orbax; runs in a process of its own, which `milepost.orbax.process` starts.

A job is a line of JSON: where, in which layout, at which step, and the trees, whose arrays are in memory that both processes map.
"""

from __future__ import annotations

import collections
import json
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from milepost.core import dtypes


class RefusedError(Exception):
    """Orbax cannot save this; `path` is where, in the item."""

    def __init__(self, why: str, path: str) -> None:
        super().__init__(why)
        self.path, self.item = path, ""


class Arrays:
    """The arrays of a job, in the memory that was filled for it."""

    def __init__(self, memory: Any, listed: dict[str, dict[str, Any]]) -> None:
        self._memory, self._listed = memory, listed

    def __getitem__(self, path: str) -> Any:
        """The array of `path`, without a copy."""
        kind, shape, offset = (self._listed[path][key] for key in ("dtype", "shape", "offset"))
        try:
            ts.dtype(kind)
        except (TypeError, ValueError):
            raise RefusedError(f"Orbax saves no arrays of type {kind}", path) from None
        numpy = dtypes.dtype(kind).numpy
        assert numpy is not None
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self._memory, numpy, count, offset).reshape(shape)


def build(node: list[Any], arrays: Arrays) -> Any:
    """The value that a node of `milepost.orbax.tree` describes."""
    match node:
        case ["dict", inside]:
            return {key: build(inner, arrays) for key, inner in inside.items()}
        case ["list", inside]:
            return [build(inner, arrays) for inner in inside]
        case ["tuple", inside]:
            return tuple(build(inner, arrays) for inner in inside)
        case ["named", name, fields]:
            record: Any = collections.namedtuple(name, list(fields))  # type: ignore[misc]
            return record(*(build(inner, arrays) for inner in fields.values()))
        case ["array", path, "numpy"]:
            return arrays[path]
        case ["array", path, "jax"]:
            return jax.numpy.asarray(arrays[path])
        case ["array", path, key]:
            return jax.random.wrap_key_data(jax.numpy.asarray(arrays[path]), impl=key[len("key<") : -1])
        case ["value", value]:
            return value
    raise AssertionError(node)


def save_tree(folder: str, step: int, trees: dict[str, Any], metrics: Any, about: dict[str, Any]) -> None:
    """As ``StandardCheckpointer().save(path, tree)`` does."""
    (tree,) = trees.values()
    if _has_text(tree):
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(folder, tree, custom_metadata=about)
    else:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, tree, custom_metadata=about)


def save_step(folder: str, step: int, trees: dict[str, Any], metrics: Any, about: dict[str, Any]) -> None:
    """As ``CheckpointManager(folder).save(step, args=StandardSave(tree))``, or of several items, does."""
    args = {
        name: (ocp.args.PyTreeSave if _has_text(one) else ocp.args.StandardSave)(one) for name, one in trees.items()
    }
    with ocp.CheckpointManager(folder, options=_options(metrics)) as manager:
        if list(args) == ["default"]:
            manager.save(step, args=args["default"], metrics=metrics, custom_metadata=about)
        else:
            manager.save(step, args=ocp.args.Composite(**args), metrics=metrics, custom_metadata=about)


def save_v1(folder: str, step: int, trees: dict[str, Any], metrics: Any, about: dict[str, Any]) -> None:
    """As ``training.Checkpointer(folder).save(step, tree)`` of Orbax' new interface does."""
    from orbax.checkpoint.experimental import v1

    (tree,) = trees.values()
    with v1.training.Checkpointer(folder) as checkpointer:
        checkpointer.save(step, tree, metrics=metrics, custom_metadata=about)


SAVERS: dict[str, Callable[..., None]] = {"tree": save_tree, "step": save_step, "items": save_step, "v1": save_v1}


def _options(metrics: Any) -> ocp.CheckpointManagerOptions:
    # Metrics are written only by a manager that is told to look at them.
    best = {"best_fn": lambda found: next(iter(found.values()))} if metrics else {}
    return ocp.CheckpointManagerOptions(create=True, enable_async_checkpointing=False, **best)


def _has_text(tree: Any) -> bool:
    """Whether there is a text in it, which the standard handler refuses."""
    return any(isinstance(leaf, str) for leaf in jax.tree.leaves(tree))


def answer(fd: int, job: dict[str, Any]) -> dict[str, Any]:
    """Do a job, and tell of it."""
    memory = mmap.mmap(fd, job["size"], prot=mmap.PROT_READ)
    try:
        trees = {}
        for name, (node, listed) in job["trees"].items():
            try:
                trees[name] = build(node, Arrays(memory, listed))
            except RefusedError as error:
                error.item = name
                raise
        SAVERS[job["layout"]](job["folder"], job["step"], trees, job["metrics"], job["about"])
        return {"version": ocp.__version__}
    except RefusedError as error:
        return {"error": str(error), "item": error.item, "path": error.path}
    except OSError as error:
        return {"error": error.strerror or str(error), "errno": error.errno}
    except Exception as error:  # noqa: BLE001 - whatever Orbax raises on what it cannot save
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Do one job after the other until there are no more."""
    fd = int(sys.argv[3])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        out.write(json.dumps(answer(fd, json.loads(line))) + "\n")
        out.flush()
