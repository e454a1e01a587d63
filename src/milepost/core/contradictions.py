"""What a manifest may say and must not: its digest proves that it is as somebody wrote it, not that it makes sense.

Readers of a checkpoint rely on this: no name leads out of the folder, every tensor is all there, no size is absurd.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from milepost.errors import DamagedError

if TYPE_CHECKING:
    from milepost.core.manifest import Manifest, Shard, Tensor

MOST_DIMENSIONS = 64
"""NumPy's bound, and PyTorch's."""
LARGEST = 2**63
"""Bytes or elements: no dimension, offset or size reaches it."""


def refuse_contradictions(manifest: Manifest, where: str) -> None:
    """`DamagedError` naming the first thing in `manifest` that cannot be."""
    for problem in _problems(manifest):
        raise DamagedError(f"the manifest contradicts itself: {problem}", where=where)


def _problems(manifest: Manifest) -> Iterator[str]:
    for name, file in manifest.files.items():
        # ".." and "/" would lead out of the folder, into the files of whoever opens a checkpoint he was given.
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            yield f"{name!r} is not the name of a file in this folder"
        if not 0 <= file.size < LARGEST:
            yield f"file {name!r} has {file.size} bytes"
    for path, tensor in manifest.tensors.items():
        problem = _shape_problem(tensor) or (
            _shards_problem(tensor, manifest) if tensor.same_as is None else _tie_problem(tensor, manifest)
        )
        if problem is not None:
            yield f"tensor {path!r} {problem}"


def _shape_problem(tensor: Tensor) -> str | None:
    shape, strides = tensor.shape, tensor.strides
    # 16 bytes are the largest element; empty dimensions count, since views of them are computed all the same.
    if len(shape) > MOST_DIMENSIONS or min(shape, default=0) < 0 or 16 * math.prod(n or 1 for n in shape) >= LARGEST:
        return f"cannot have shape {shape}"
    if strides is not None and (len(strides) != len(shape) or any(abs(step) >= LARGEST for step in strides)):
        return f"of shape {shape} cannot have strides {strides}"
    return None


def _tie_problem(tensor: Tensor, manifest: Manifest) -> str | None:
    other = manifest.tensors.get(tensor.same_as or "")
    if other is None or other.same_as is not None or tensor.shards:
        return f"is tied to {tensor.same_as!r}, which has no bytes of its own"
    if (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
        return f"is tied to {tensor.same_as!r}, which has another dtype or shape"
    return None


def _shards_problem(tensor: Tensor, manifest: Manifest) -> str | None:
    for shard in tensor.shards:
        if shard.file not in manifest.files:
            return f"is in {shard.file!r}, which is not listed"
    if len(tensor.shards) == 1 and tensor.shards[0].offset is None and tensor.shards[0].shape is None:
        return None
    if not all(_is_box(shard, tensor.shape) for shard in tensor.shards):
        return "has a shard outside of it"
    if sum(math.prod(shard.shape or ()) for shard in tensor.shards) != math.prod(tensor.shape):
        return "is not all there"
    return None


def _is_box(shard: Shard, whole: tuple[int, ...]) -> bool:
    offset, shape = shard.offset, shard.shape
    return (
        offset is not None
        and shape is not None
        and len(offset) == len(shape) == len(whole)
        and all(0 <= low <= low + size <= all_ for low, size, all_ in zip(offset, shape, whole, strict=True))
    )
