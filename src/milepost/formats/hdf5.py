"""HDF5 files: weights and models of Keras, and others.

h5py parses them in a process of its own. Numbers that stand in the file as they are, which is how Keras writes them, are read from
here.
"""

from __future__ import annotations

import contextlib
import importlib.util
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.child import Child
from milepost.formats.place import File, Folder, Readable, read_array
from milepost.formats.plain_json import plain_json
from milepost.formats.source import FormatSource, as_array, divided, spec, unused

NAME = "an HDF5 file"
KERAS = "a Keras model in HDF5"
WEIGHTS = "weights of Keras in HDF5"
MAGIC = b"\x89HDF\r\n\x1a\n"
LISTING = 1.75
"""Seconds of processor time that listing a file may take."""
SLOWEST = 20e6
"""Bytes a second that reading must come to."""


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    return isinstance(place, File) and is_hdf5(place)


def is_hdf5(source: Readable) -> bool:
    """Whether `source` is a HDF5 file; a program may have put something of its own in front."""
    at = 0
    while at + 8 <= min(source.size, 1 << 20):
        if source.read(at, 8) == MAGIC:
            return True
        at = max(512, 2 * at)
    return False


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    return Hdf5.of(place)


class Opened(Protocol):
    """Something that has a descriptor for another process."""

    @property
    def where(self) -> str:
        """What it is called, for people."""

    def opened(self) -> AbstractContextManager[int]:
        """The descriptor."""


class Hdf5(FormatSource):
    """One file, or the part of another file that is one.

    Args:
        file: the file.
        part: what of it is HDF5, to be read from.
        offset: where that begins.
        size: its bytes.
        told: what is known beside it.
        plain: plain values beside it.

    Raises:
        FormatError: h5py is not installed; the file cannot be understood.
        UnsafeContentError: it leads out of itself, or was made to do harm.
    """

    def __init__(
        self,
        file: Opened,
        part: Readable,
        offset: int,
        size: int,
        told: dict[str, Any] | None = None,
        plain: dict[str, Any] | None = None,
    ) -> None:
        if importlib.util.find_spec("h5py") is None:
            raise FormatError(
                "HDF5 files are read by h5py, which is not installed",
                where=file.where,
                hint="pip install 'milepost[formats]'",
            )
        self._part = part
        child = Child("hdf5_child", file.where, file.opened)
        found = child.ask(again=True, do="open", seconds=LISTING, offset=offset, size=size)
        values: dict[str, Any] = dict(plain or {})
        specs: dict[str, TensorSpec] = {}
        self._tensors: dict[str, tuple[str, int | None, bool]] = {}
        for raw, name, shape, at, big_endian in found["tensors"]:
            path = unused(divided(raw), specs, values)
            specs[path] = spec(dtypes.dtype(name), tuple(shape), file.where, path)
            self._tensors[path] = (raw, at, big_endian)
        # Where every tensor can be read from here, nothing is left to ask.
        self._child = child if any(at is None for _, at, _ in self._tensors.values()) else None
        for raw, value in found["plain"]:
            values[unused(divided(raw), specs, values)] = _parsed(value)
        end = "/vars/name"  # where Keras has the name of a layer
        self.notes = {path.removesuffix(end): str(name) for path, name in values.items() if path.endswith(end)}
        super().__init__(file.where, specs, values, _told(specs, values) | (told or {}))
        step = step_of(self)
        if step is not None:
            self._metadata = {**self._metadata, "step": step}

    @classmethod
    def of(cls, file: File) -> Hdf5:
        """All of `file`."""
        return cls(file, file, 0, file.size)

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        raw, at, big_endian = self._tensors[path]
        if at is not None:
            return as_array(read_array(self._part, at, spec.nbytes), spec, big_endian=big_endian)
        if spec.nbytes > 1 << 26 and spec.nbytes > 1100 * self._part.size:
            raise UnsafeContentError(f"tensor {path!r} is far larger than the file", where=self.where)
        out: npt.NDArray[Any] = np.empty(spec.nbytes, np.uint8)
        seconds = LISTING + spec.nbytes / SLOWEST
        assert self._child is not None
        self._child.ask(out.data if out.size else None, do="read", seconds=seconds, path=raw, nbytes=spec.nbytes)
        return as_array(out, spec, big_endian=big_endian)

    def checked(self) -> set[str]:
        """The tensors that have checksums, compared when they are read."""
        if self._child is None:
            return set()  # the numbers of all stand as they are
        raw = set(self._child.ask(do="checked", seconds=LISTING))
        return {path for path, (name, _, _) in self._tensors.items() if name in raw}

    def _stands(self, path: str) -> tuple[Readable, int] | None:
        _, at, big_endian = self._tensors[path]
        return None if at is None or big_endian else (self._part, at)


def step_of(source: TensorSource) -> int | None:
    """What the optimizer counted: the first of its variables in Keras."""
    for path, found in source.specs.items():
        last = path.rpartition("/")[2].partition(":")[0]
        if (last in ("iteration", "iter", "iterations") or path == "optimizer/vars/0") and not found.shape:
            return None if found.dtype.floating else int(source[path])
    return None


def _told(specs: dict[str, TensorSpec], values: dict[str, Any]) -> dict[str, Any]:
    """What the file is, by what is in it."""
    if "keras_version" in values or "model_weights/keras_version" in values:
        version = values.get("keras_version", values.get("model_weights/keras_version"))
        name = KERAS if "model_config" in values else WEIGHTS
        return {"format": name, "written_by": {"framework": "keras", "version": version}}
    if any("/vars/" in f"/{path}" for path in specs):
        return {"format": WEIGHTS, "written_by": {"framework": "keras"}}
    return {"format": NAME}


def _parsed(value: Any) -> Any:
    """Configurations are JSON in a string."""
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(FormatError):
            return plain_json(value.encode("utf-8", "surrogatepass"), "")
    return value
