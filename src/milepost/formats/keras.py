"""Models that Keras saved in its own format, ``.keras``: an archive with the configuration and the weights as HDF5."""

from __future__ import annotations

import mmap
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from milepost.core.source import TensorSource
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.archive import Archive, archive_of
from milepost.formats.hdf5 import Hdf5
from milepost.formats.place import File, Folder, Readable, Window, check_range
from milepost.formats.plain_json import plain_json

NAME = "a Keras model"
WEIGHTS = "model.weights.h5"
LARGEST_CONFIG = 32 * 1024 * 1024
LARGEST_FREE = 64 * 1024 * 1024
"""Bytes of weights that may be packed to however little."""
HIGHEST_RATIO = 100
"""Bytes of weights to one of the file, of more than these."""


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, File):
        return False
    archive = archive_of(place)
    return "config.json" in archive and "metadata.json" in archive


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    archive = archive_of(place)
    metadata = _json(archive, "metadata.json")
    plain = {"config": _json(archive, "config.json"), "metadata": metadata}
    told: dict[str, Any] = {"format": NAME, "written_by": {"framework": "keras"}}
    if isinstance(metadata, dict):
        told["written_by"]["version"] = metadata.get("keras_version")
        told["saved"] = metadata.get("date_saved")
    if WEIGHTS not in archive:
        raise FormatError(
            "the model has no weights", where=place.where, expected=WEIGHTS, found=", ".join(archive)[:200]
        )
    found = archive.open(WEIGHTS)
    if isinstance(found, Window):
        source = Hdf5(place, found, found.offset, found.size, told, plain)
    else:
        # Keras stores it as it is; another program packed it.
        if found.size > max(LARGEST_FREE, HIGHEST_RATIO * place.size):
            raise UnsafeContentError(
                "the weights are packed from far more than weights are",
                where=place.where,
                found=f"{found.size} bytes in {place.size}",
            )
        unpacked = Unpacked(found)
        source = Hdf5(unpacked, unpacked, 0, unpacked.size, told, plain)
    groups = {group for path in source for group in accumulate(path.split("/"), "{}/{}".format)}
    names = {path: name for path, name in _names(plain["config"], "").items() if path in groups}
    source.notes = {**names, **source.notes}
    return source


class Unpacked:
    """What was packed in an archive, in a nameless file that is gone when nobody needs it."""

    def __init__(self, packed: Readable) -> None:
        self.where, self.size = packed.where, packed.size
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed when this object goes
        self._file.truncate(self.size)
        if self.size:
            self._image = mmap.mmap(self._file.fileno(), self.size)
            with memoryview(self._image) as view:
                packed.read_into(0, view)

    def read(self, offset: int, size: int) -> bytes:
        check_range(self, offset, size)
        return self._image[offset : offset + size]

    def read_into(self, offset: int, out: memoryview) -> None:
        out[:] = self.read(offset, len(out))

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the file."""
        yield self._file.fileno()


def _names(config: Any, above: str) -> dict[str, str]:
    """The names of layers by the paths of their weights, which Keras makes of the layers' classes, counted.

    Keras 2 and the first of Keras 3 say them here alone.
    """
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    names: dict[str, str] = {}
    used: dict[str, int] = {}
    for layer in layers if isinstance(layers, list) else ():
        made = layer.get("class_name") if isinstance(layer, dict) else None
        if not isinstance(made, str):
            continue
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", made.rpartition(">")[2]))
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        used[kind] = used.get(kind, -1) + 1
        path = f"{above}layers/{kind}" + (f"_{used[kind]}" if used[kind] else "")
        named = layer.get("config")
        if isinstance(named, dict) and isinstance(named.get("name"), str):
            names[path] = named["name"]
        names |= _names(layer, f"{path}/")
    return names


def _json(archive: Archive, name: str) -> Any:
    return plain_json(archive.read(name, LARGEST_CONFIG), f"{archive.source.where}, {name}")
