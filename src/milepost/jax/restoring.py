"""Weights and other state into pytrees, where no run goes on: for evaluation, serving, fine-tuning."""

from __future__ import annotations

from typing import Any

import jax

from milepost.core import tree
from milepost.core.adapter import is_tensor
from milepost.core.paths import below
from milepost.errors import MismatchError
from milepost.folder.checkpoint import Checkpoint
from milepost.jax import arrays, pytrees
from milepost.jax.items import shown, with_sharding
from milepost.ops.refs import open as open_ref
from milepost.training.items import compare


def restore(ref: str, target: Any, *, item: str = "params", sharding: Any = None) -> Any:
    """A pytree out of a checkpoint, without continuing its run.

    Args:
        ref: a checkpoint, or any file that `milepost.open` reads: "runs/mnist@best", "model.safetensors".
        target: says what comes back: structure, classes, dtypes, shapes. Of arrays or of `jax.ShapeDtypeStruct`, as
            ``jax.eval_shape(init, key)`` gives them, for which nothing is allocated. What is no array stays as it is there.
        item: the part of the checkpoint; "" for all of a file that has no parts.
        sharding: where the arrays go, one `jax.sharding.Sharding` or a tree of them; else where those of `target` are.

    Raises:
        MismatchError: with a row for each array that is missing or differs. What else is in the checkpoint does not matter.
        NotFoundError: there is no such checkpoint.
        DamagedError: the bytes are not those that were saved.

    Example:
        >>> params = milepost.jax.restore("runs/jax-mnist@best", jax.eval_shape(init, jax.random.key(0)))
    """
    live = target if sharding is None else with_sharding(target, sharding, "target")
    source = open_ref(ref)
    saved = source.manifest.tensors if isinstance(source, Checkpoint) else {}
    variants = {path: tensor.variant for path, tensor in saved.items()}
    _, wanted = tree.flatten(pytrees.unfold(live), is_tensor, item)
    there = {
        path: f"{_kind(variants.get(path))} {source.specs[path].dtype.name} {list(source.specs[path].shape)}".strip()
        for path in wanted
        if path in source.specs
    }
    rows = compare(there, {path: shown(leaf).removeprefix(arrays.WEAK).strip() for path, leaf in wanted.items()})
    if rows:
        near = sorted({path.partition("/")[0] for path in source})
        raise MismatchError(
            "the checkpoint does not fit the target",
            where=f"{ref}, {below(item) or 'all'}",
            rows=tuple(rows),
            hint=f"item= is one of {', '.join(near)}" if len(rows) == len(wanted) else None,
        )
    made = iter(
        [arrays.make(source[path], variants.get(path), arrays.sharding_of(leaf)) for path, leaf in wanted.items()]
    )
    return jax.tree.map(lambda leaf: next(made) if pytrees.is_array(leaf) else leaf, live)


def _kind(variant: str | None) -> str:
    return "" if variant in (None, arrays.WEAK) else str(variant)
