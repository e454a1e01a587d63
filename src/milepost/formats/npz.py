"""Archives of numpy arrays (``.npz``): the arrays at their names. Arrays of Python objects and records are named and not read."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from milepost.core.foreign import Foreign
from milepost.core.paths import join
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError
from milepost.formats import bounds, npy
from milepost.formats.archive import MAGIC, Archive, archive_of
from milepost.formats.place import File, Folder, Readable, Window
from milepost.formats.source import FormatSource

NAME = "an archive of numpy arrays"
MOST_ARRAYS = 20_000
"""Each has a header of its own that has to be looked at."""
_SUFFIX = ".npy"


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, File) or not place.head.startswith(MAGIC):
        return False
    return all(name.endswith(_SUFFIX) for name in archive_of(place))


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    archive = archive_of(place)
    if len(archive) > bounds.most(MOST_ARRAYS):
        raise bounds.too_much("more arrays than are read", place.where, bound=MOST_ARRAYS, found=len(archive))
    headers = archive.ahead()
    specs: dict[str, TensorSpec] = {}
    plain: dict[str, Any] = {}
    members: dict[str, tuple[str, npy.Header]] = {}
    for name in archive:
        member = headers.open(name)
        header = npy.read_header(member)
        path = join(name.removesuffix(_SUFFIX).split("/"))
        if npy.is_text(header):
            plain[path] = npy.read_text(member, header)
            continue
        try:
            specs[path] = npy.array_spec(member, header)
            members[path] = name, header
        except FormatError as error:
            if not npy.is_opaque(header):
                raise
            plain[path] = Foreign("numpy.ndarray", {"dtype": str(header.descr), "shape": header.shape}, error.message)
    return _Npz(place.where, archive, members, specs, plain)


class _Npz(FormatSource):
    def __init__(
        self,
        where: str,
        archive: Archive,
        members: dict[str, tuple[str, npy.Header]],
        specs: dict[str, TensorSpec],
        plain: dict[str, Any],
    ) -> None:
        super().__init__(where, specs, plain, {"format": NAME})
        self._archive, self._members = archive, members

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        name, header = self._members[path]
        return npy.read(self._archive.open(name), header, spec)

    def _stands(self, path: str) -> tuple[Readable, int] | None:
        name, header = self._members[path]
        member = self._archive.open(name)
        return npy.stands(member, header) if isinstance(member, Window) else None  # what is packed is unpacked once
