"""Arrays in zarr and OCDBT, read by tensorstore; runs in a process of its own (`milepost.formats.child`).

What tensorstore is asked to open is made here, of the folder that was named and of names that stand in it; it refuses names that
lead out of a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import tensorstore as ts

from milepost.formats.child_serve import Answer, RefusedError, serve

MEMORY = 512 * 1024 * 1024
MOST_KEYS = 500_000
LARGEST_METADATA = 1024 * 1024
PIECE = 64 * 1024 * 1024

_ENDS = {"/.zarray": "zarr", "/zarr.json": "zarr3"}


class Arrays:
    """The arrays of the folders that were opened."""

    def __init__(self) -> None:
        self._context = ts.Context({"file_io_concurrency": {"limit": 4}, "data_copy_concurrency": {"limit": 2}})
        self._open: dict[tuple[str, str], Any] = {}

    def open(self, root: str, ocdbt: bool, whole: bool) -> Answer:
        """List the arrays of a folder. `whole`: every piece was written, so that one that is missing is not a piece of zeros."""
        base = {"driver": "file", "path": root + "/"}
        spec: dict[str, Any] = {"driver": "ocdbt", "base": base} if ocdbt else base
        store = ts.KvStore.open(spec, context=self._context).result()
        keys = store.list().result()
        if len(keys) > MOST_KEYS:
            raise RefusedError("more parts than any checkpoint has", str(len(keys)), unsafe=True)
        waiting = []
        for raw in sorted(keys):
            key = raw.decode("utf-8", "surrogateescape")
            for end, driver in _ENDS.items():
                if key.endswith(end):
                    name = key.removesuffix(end)
                    self._check(store, raw, name)
                    inner = {**spec, "path": f"{spec.get('path', '')}{name}/"}
                    told = {"driver": driver, "kvstore": inner, "fill_missing_data_reads": not whole}
                    waiting.append((name, ts.open(told, open=True, read=True, context=self._context)))
        found = []
        for name, future in waiting:
            array = self._open[root, name] = future.result()
            found.append((name, array.dtype.name, list(array.shape)))
        return found, None

    def _check(self, store: Any, key: bytes, name: str) -> None:
        """Nothing of what an array says of itself may name another place."""
        raw = store.read(key).result().value
        if len(raw) > LARGEST_METADATA:
            raise RefusedError("the description of an array is impossibly large", ascii(name)[:200], unsafe=True)
        told = json.loads(raw)
        if not isinstance(told, dict) or "kvstore" in told or "driver" in told:
            raise RefusedError("the description of an array names another place", ascii(name)[:200], unsafe=True)

    def read(self, root: str, name: str, nbytes: int) -> Answer:
        array = self._open[root, name]
        if not array.shape or nbytes <= PIECE:
            return None, iter([array.read(order="C").result().tobytes()])
        chunk = array.chunk_layout.read_chunk.shape[0] or 1
        row = nbytes // array.shape[0]
        step = -(-max(1, PIECE // max(1, row)) // chunk) * chunk  # or chunks are unpacked over and over
        return None, self._rows(array, step)

    def _rows(self, array: Any, step: int) -> Iterator[bytes]:
        for first in range(0, array.shape[0], step):
            yield array[first : min(first + step, array.shape[0])].read(order="C").result().tobytes()


def main() -> None:
    """Serve the folders of one checkpoint."""
    arrays = Arrays()
    serve(MEMORY, {"open": arrays.open, "read": arrays.read})
