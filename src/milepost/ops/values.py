"""Single values of a checkpoint, as a person asks for them: by path, shown or written to a file."""

from __future__ import annotations

import os
import re
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from milepost.core import tree
from milepost.core.brief import kind_of
from milepost.core.source import TensorSource, TensorSpec
from milepost.core.values import encode
from milepost.errors import ScriptError
from milepost.folder.checkpoint import Checkpoint
from milepost.ops.matching import is_pattern, select
from milepost.ops.outline import nothing_at
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


def read(source: TensorSource, paths: Sequence[str]) -> list[Value]:
    """What is at `paths`, or fits them as patterns; containers only of milepost's own checkpoints.

    Raises:
        NotFoundError: nothing is.
        DamagedError: its bytes differ from their digest.
        StorageError: the storage refused.
    """
    found: dict[str, Value] = {}
    for path in paths:
        value = _container(source, path) if isinstance(source, Checkpoint) else None
        if value is not None:
            found[path] = value
        elif path in source.specs or path in source.plain or is_pattern(path):
            found |= {one: _read(source, one) for one in select(source, [path], plain=True)}
        else:
            raise nothing_at(source, path)
    return list(found.values())


def _read(source: TensorSource, path: str) -> Value:
    if path in source.specs:
        return Value(path, "tensor", source.specs[path], source[path], None)
    encoded = encode(source.plain[path], path)
    return Value(path, kind_of(encoded), None, None, encoded)


def _container(checkpoint: Checkpoint, path: str) -> Value | None:
    """The plain value or container at `path`, as the manifest has it; None if there is none."""
    for item, structure in checkpoint.manifest.items.items():
        for node in tree.walk(structure, item):
            if node.path == path and node.kind != "tensor":
                return Value(path, node.kind, None, None, node.encoded)
    return None


def sliced(array: Array, text: str) -> Array:
    """The part of `array` that `text` names, as numpy would: ``0:10, :, -1``.

    Raises:
        ScriptError: it is no slice, or reaches outside.

    Example:
        >>> sliced(np.arange(12).reshape(3, 4), "1:, -1")
        array([ 7, 11])
    """
    parts: list[int | slice | types.EllipsisType] = []
    for part in text.split(","):
        found = _SLICE.fullmatch(part.strip())
        if found is None:
            raise ScriptError("this is no slice", found=text, expected="as numpy has it: 0:10, :, -1")
        if part.strip() == "...":
            parts.append(...)
        elif ":" in part:
            parts.append(slice(*(int(number) if number else None for number in part.replace(" ", "").split(":"))))
        else:
            parts.append(int(part))
    try:
        cut: Array = np.asarray(array[tuple(parts)])
    except (IndexError, ValueError) as error:
        raise ScriptError(
            "the tensor has no such part", found=text, expected=f"a part of shape {array.shape}", hint=str(error)
        ) from error
    return cut


_SLICE = re.compile(r"\.\.\.|-?[0-9]{1,18}|(-?[0-9]{0,18})\s*:\s*(-?[0-9]{0,18})(\s*:\s*(-?[0-9]{0,18}))?")


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
    """Write `array` to the new `file` (``-``: to stdout); returns a word on its type if that had to change.

    Raises:
        ScriptError: the file exists.
        StorageError: it cannot be written.
    """
    array, changed = as_npy(array)
    if file == "-":
        np.save(sys.stdout.buffer, array, allow_pickle=False)
        return changed
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
