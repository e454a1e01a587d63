"""Leaves that Equinox wrote (`equinox.tree_serialise_leaves`): numpy arrays one behind the other, with no names.

A line of JSON, in which programs keep what the model was made with, may stand in front.
"""

from __future__ import annotations

import json
from typing import Any

import numpy.typing as npt

from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats import bounds, npy
from milepost.formats.npy import Header
from milepost.formats.place import Ahead, File, Folder, Readable, Window
from milepost.formats.source import FormatSource, spec

NAME = "leaves written by Equinox"
MOST = 200_000


def recognises(place: File | Folder) -> bool:
    """More than one array; a single one is a numpy file. See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, File):
        return False
    start = _start(place)
    if start is None:
        return False
    try:
        return start > 0 or _next(place, place, 0)[1] < place.size
    except UnsafeContentError:
        return False  # the other format says it


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    at = _start(place)
    assert at is not None
    plain = {"config": json.loads(place.head[:at])} if at else {}
    specs: dict[str, TensorSpec] = {}
    headers: list[tuple[Header, int, int]] = []
    near = Ahead(place)
    while at < place.size:
        if len(headers) == bounds.most(MOST):
            raise bounds.too_much("more arrays than any model has", place.where, bound=MOST)
        header, stop, found = _next(near, place, at)
        specs[str(len(headers))] = found
        headers.append((header, at, stop))
        at = stop
    return Equinox(place, specs, plain, headers)


class Equinox(FormatSource):
    """One file; leaves are numbered, as they are in the tree."""

    def __init__(
        self, file: File, specs: dict[str, TensorSpec], plain: dict[str, Any], headers: list[tuple[Header, int, int]]
    ) -> None:
        super().__init__(file.where, specs, plain, {"format": NAME, "written_by": {"framework": "equinox"}})
        self._file, self._headers = file, headers

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        header, start, stop = self._headers[int(path)]
        return npy.read(Window(self._file, start, stop - start), header, spec)


def _next(near: Readable, file: File, at: int) -> tuple[Header, int, TensorSpec]:
    """The header of the array that begins at `at`, where it ends, and what it is."""
    header = npy.read_header(Window(near, at, near.size - at))
    if npy.is_text(header):
        raise FormatError("text stands among the arrays", where=file.where)
    kind, inner, _ = npy.element(header.descr, file.where)
    found = spec(kind, (*header.shape, *inner), file.where, f"at {at}")
    stop = at + header.offset + found.nbytes
    if stop > file.size:
        raise FormatError(
            "the file is cut short", where=file.where, expected=f"{stop} bytes", found=f"{file.size} bytes"
        )
    return header, stop, found


def _start(place: File) -> int | None:
    """Where the first array begins: at once, or behind a line of JSON; None if there is none."""
    if place.head.startswith(npy.MAGIC):
        return 0
    line = place.head.find(b"\n") + 1
    if not line or not place.head.startswith(npy.MAGIC, line):
        return None
    try:
        json.loads(place.head[:line])
    except (ValueError, RecursionError):
        return None
    return line
