"""Models that Keras saved in its own format, ``.keras``: an archive with the configuration and the weights as HDF5."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from milepost.core.source import TensorSource
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.archive import Archive, archive_of
from milepost.formats.hdf5 import Hdf5
from milepost.formats.keras_names import names_of
from milepost.formats.keras_npz import open_weights
from milepost.formats.place import File, Folder, Readable, Window, check_range
from milepost.formats.plain_json import plain_json
from milepost.formats.source import FormatSource

NAME = "a Keras model"
WEIGHTS, WEIGHTS_NPZ = "model.weights.h5", "model.weights.npz"
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
    source = _weights(place, archive, told, plain)
    source.notes = {**names_of(plain["config"], source.specs), **source.notes}
    return source


def _weights(place: File, archive: Archive, told: dict[str, Any], plain: dict[str, Any]) -> FormatSource:
    if WEIGHTS not in archive and WEIGHTS_NPZ in archive:
        return open_weights(archive.open(WEIGHTS_NPZ), place.where, told, plain)
    if WEIGHTS not in archive:
        raise FormatError(
            "the model has no weights", where=place.where, expected=WEIGHTS, found=", ".join(archive)[:200]
        )
    found = archive.open(WEIGHTS)
    if isinstance(found, Window):
        return Hdf5(place, found, found.offset, found.size, told, plain)
    # Keras stores it as it is; another program packed it.
    if found.size > max(LARGEST_FREE, HIGHEST_RATIO * place.size):
        raise UnsafeContentError(
            "the weights are packed from far more than weights are",
            where=place.where,
            found=f"{found.size} bytes in {place.size}",
        )
    unpacked = Unpacked(found)
    return Hdf5(unpacked, unpacked, 0, unpacked.size, told, plain)


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


def _json(archive: Archive, name: str) -> Any:
    return plain_json(archive.read(name, LARGEST_CONFIG), f"{archive.source.where}, {name}")
