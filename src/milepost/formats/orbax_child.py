"""Arrays in zarr and OCDBT, read by tensorstore; runs in a process of its own (`milepost.formats.child`).

What tensorstore is asked to open is made here, of the folder that was named and of names that stand in it; it refuses names that
lead out of a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts

from milepost.formats import bounds
from milepost.formats.child_serve import Answer, RefusedError, serve

MEMORY = 200 * 1024 * 1024
MOST_KEYS = 500_000
LARGEST_METADATA = 1024 * 1024
PIECE = 64 * 1024 * 1024

_DRIVERS = {".zarray": "zarr", "zarr.json": "zarr3"}
"""By the name of the file that describes an array."""


class _Tree(NamedTuple):
    """How the folder of a tree is opened, whether every piece was written, and by name the driver, type and shape of each array."""

    spec: dict[str, Any]
    whole: bool
    arrays: dict[str, tuple[str, str, list[int]]]


class Arrays:
    """The arrays of the folders that were opened."""

    def __init__(self) -> None:
        self._context = ts.Context({"file_io_concurrency": {"limit": 4}, "data_copy_concurrency": {"limit": 2}})
        self._trees: dict[str, _Tree] = {}

    def open(self, root: str, ocdbt: bool, whole: bool) -> Answer:
        """List the arrays of a folder. `whole`: every piece was written, so that one that is missing is not a piece of zeros.

        Their descriptions are read, which takes a fiftieth of the time that opening all of them would.
        """
        base = {"driver": "file", "path": root + "/"}
        spec: dict[str, Any] = {"driver": "ocdbt", "base": base} if ocdbt else base
        store = ts.KvStore.open(spec, context=self._context).result()
        keys = store.list().result()
        if len(keys) > bounds.most(MOST_KEYS):
            raise RefusedError("more parts than any checkpoint has", f"{len(keys):,}", beyond=True)
        waiting = []
        for raw in sorted(keys):
            name, _, file = raw.decode("utf-8", "surrogateescape").rpartition("/")
            if file in _DRIVERS:
                waiting.append((name, _DRIVERS[file], store.read(raw)))
        tree = self._trees[root] = _Tree(spec, whole, {})
        for name, driver, future in waiting:
            tree.arrays[name] = (driver, *_described(name, future.result().value))
        return [(name, kind, shape) for name, (_, kind, shape) in tree.arrays.items()], None

    def read(self, root: str, name: str, nbytes: int) -> Answer:
        spec, whole, arrays = self._trees[root]
        driver, kind, shape = arrays[name]
        inner = {**spec, "path": f"{spec.get('path', '')}{name}/" if name else spec.get("path", "")}
        told = {"driver": driver, "kvstore": inner, "fill_missing_data_reads": not whole}
        array: Any = ts.open(told, open=True, read=True, context=self._context).result()
        if (array.dtype.name, list(array.shape)) != (kind, shape):
            raise RefusedError("an array is not what its description says", ascii(name)[:200])
        if not array.shape or nbytes <= PIECE:
            return None, iter([array.read(order="C").result().tobytes()])
        chunk = array.chunk_layout.read_chunk.shape[0] or 1
        row = nbytes // array.shape[0]
        step = -(-max(1, PIECE // max(1, row)) // chunk) * chunk  # or chunks are unpacked over and over
        return None, self._rows(array, step)

    def _rows(self, array: Any, step: int) -> Iterator[bytes]:
        for first in range(0, array.shape[0], step):
            yield array[first : min(first + step, array.shape[0])].read(order="C").result().tobytes()


def _described(name: str, raw: bytes) -> tuple[str, list[int]]:
    """The element type and shape of an array; nothing of what it says of itself may name another place."""
    if len(raw) > LARGEST_METADATA:
        raise RefusedError("the description of an array is impossibly large", ascii(name)[:200], unsafe=True)
    told = json.loads(raw)
    if not isinstance(told, dict) or "kvstore" in told or "driver" in told:
        raise RefusedError("the description of an array names another place", ascii(name)[:200], unsafe=True)
    kind, shape = told.get("data_type", told.get("dtype")), told.get("shape")
    if not isinstance(kind, str) or not isinstance(shape, list):
        raise RefusedError("the description of an array cannot be understood", ascii(name)[:200])
    return (np.dtype(kind).name if kind[0] in "<>|" else kind), shape


def main() -> None:
    """Serve the folders of one checkpoint."""
    arrays = Arrays()
    serve(bounds.most(MEMORY), {"open": arrays.open, "read": arrays.read})
