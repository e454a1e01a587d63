"""Single values of a checkpoint, as a person asks for them: by path, shown or written to a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from milepost.core import tree
from milepost.core.brief import kind_of
from milepost.core.source import TensorSource, TensorSpec
from milepost.core.values import encode
from milepost.errors import NotFoundError, ScriptError
from milepost.folder.checkpoint import Checkpoint
from milepost.ops.refs import wording

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


class Value(NamedTuple):
    """A tensor (`spec` and `array`) or a plain value (`encoded`, typed as in the manifest; containers whole)."""

    path: str
    kind: str
    spec: TensorSpec | None
    array: Array | None
    encoded: Any


def read(source: TensorSource, path: str) -> Value:
    """What is at `path`; containers only of milepost's own checkpoints.

    Raises:
        NotFoundError: nothing is.
        DamagedError: its bytes differ from their digest.
        StorageError: the storage refused.
    """
    if not isinstance(source, Checkpoint):
        return _read_other(source, path)
    for item, structure in source.manifest.items.items():
        for node in tree.walk(structure, item):
            if node.path == path and node.kind == "tensor":
                return Value(path, "tensor", source.specs[path], source[path], None)
            if node.path == path:
                return Value(path, node.kind, None, None, node.encoded)
    from milepost.ops.contents import hint

    raise NotFoundError(f"there is nothing at {path!r}", where=source.where, hint=hint(source, path))


def _read_other(source: TensorSource, path: str) -> Value:
    if path in source.specs:
        return Value(path, "tensor", source.specs[path], source[path], None)
    if path in source.plain:
        encoded = encode(source.plain[path], path)
        return Value(path, kind_of(encoded), None, None, encoded)
    from milepost.ops.outline import nothing_at

    raise nothing_at(source, path)


def as_npy(array: Array) -> tuple[Array, str | None]:
    """`array` in a type that ``.npy`` files have, and a word on it if it was another before. No value changes: every
    value of the short floats and ints of ml_dtypes is one of float32 or int8 as well."""
    if array.dtype.isbuiltin == 1:
        return array, None
    wide = np.dtype(
        np.int8 if array.dtype.name.startswith("int") else np.uint8 if "uint" in array.dtype.name else np.float32
    )
    return array.astype(wide), f"written as {wide.name}: .npy has no {array.dtype.name}"


def write_npy(array: Array, file: str) -> str | None:
    """Write `array` to the new `file`; returns a word on its type if that had to change.

    Raises:
        ScriptError: the file exists.
        StorageError: it cannot be written.
    """
    array, changed = as_npy(array)
    if os.path.lexists(file):
        raise ScriptError("the file exists already", where=file, hint="choose another name, or remove it")
    with wording("write the file", file), open(file, "xb") as out:
        try:
            np.save(out, array, allow_pickle=False)
        except BaseException:
            os.unlink(file)
            raise
    return changed


def as_json(array: Array, most: int | None) -> Any:
    """`array` as nested lists; None if it has more than `most` elements. NaN and infinities become text, complex
    numbers pairs."""
    if most is not None and array.size > most:
        return None
    if array.dtype.kind == "c":
        return as_json(np.stack([array.real, array.imag], axis=-1), None)
    plain, _ = as_npy(array)
    return _finite(plain.tolist())


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return repr(value)
    return value
