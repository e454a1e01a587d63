"""Weights and other state into pytrees, where no run goes on: for evaluation, serving, fine-tuning."""

from __future__ import annotations

import os
from typing import Any

import jax

from milepost.core import tree
from milepost.core.adapter import is_tensor
from milepost.core.paths import below
from milepost.core.source import TensorSource
from milepost.errors import MismatchError
from milepost.folder.checkpoint import Checkpoint
from milepost.formats.orbax import Orbax
from milepost.jax import arrays, pytrees
from milepost.jax.items import shown, with_sharding
from milepost.ops.refs import open as open_ref
from milepost.training.items import compare


def restore(
    ref: str | os.PathLike[str] | TensorSource, target: Any, *, item: str = "params", sharding: Any = None
) -> Any:
    """A pytree out of a checkpoint, without continuing its run.

    Args:
        ref: a checkpoint, or what `milepost.open` reads or returned: "runs/mnist@best", "model.safetensors", a folder of Orbax.
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
    source = ref if isinstance(ref, TensorSource) else open_ref(ref)
    variants = _variants(source)
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
            where=f"{source.where}, {below(item) or 'all'}",
            rows=tuple(rows),
            hint=f"item= is one of {', '.join(near)}" if len(rows) == len(wanted) else None,
        )
    made = iter(
        [arrays.make(source[path], variants.get(path), arrays.sharding_of(leaf)) for path, leaf in wanted.items()]
    )
    return jax.tree.map(lambda leaf: next(made) if pytrees.is_array(leaf) else leaf, live)


def _variants(source: TensorSource) -> dict[str, str | None]:
    """What is known of its arrays beside dtype and shape."""
    if isinstance(source, Checkpoint):
        return {path: tensor.variant for path, tensor in source.manifest.tensors.items()}
    known = source.of_jax.items() if isinstance(source, Orbax) else ()
    return {path: None if kind is None else f"key<{kind}>" for path, kind in known}


def _kind(variant: str | None) -> str:
    return "" if variant in (None, arrays.WEAK) else str(variant)
