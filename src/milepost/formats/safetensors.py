"""Single safetensors files (https://github.com/huggingface/safetensors, "Format")."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.layout import LARGEST_HEADER, Span, parse
from milepost.core.paths import escape
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import DamagedError, FormatError
from milepost.formats import bounds
from milepost.formats.place import File, Folder, Readable, read_array
from milepost.formats.source import FormatSource, as_array, spec

NAME = "a safetensors file"
MOST_COLONS, MOST_COMMAS = 900_000, 2_000_000
"""In the header: an entry has four of each and more for its dimensions. Of nine bytes that are no entry two hundred are made."""


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, File) or place.size < 10:
        return False
    length = int.from_bytes(place.head[:8], "little")
    return 2 <= length <= LARGEST_HEADER and place.head[8:9] == b"{"


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    length = int.from_bytes(place.head[:8], "little")
    header = place.head if len(place.head) >= 8 + length else place.read(0, min(8 + length, place.size))
    if header.count(b":") > bounds.most(MOST_COLONS) or header.count(b",") > bounds.most(MOST_COMMAS):
        raise bounds.too_much("more entries than any file of tensors has", place.where, bound=MOST_COLONS // 4)
    try:
        entries, metadata = parse(header, place.size, place.where)
    except DamagedError as error:
        raise FormatError(error.message, where=place.where, found=error.found) from error
    specs: dict[str, TensorSpec] = {}
    spans: dict[str, Span] = {}
    paths = {key: escape(key) for key in entries}
    last = 8 + length
    for key, (code, shape, offset, size) in sorted(entries.items(), key=lambda entry: entry[1][2:]):
        kind = dtypes.from_code(code) or _EXTRA.get(code)
        if kind is None:
            raise FormatError(f"entry {key!r} has an unknown dtype", where=place.where, found=code)
        path = paths[key]
        packed = (*shape[:-1], shape[-1] // 2) if code == "F4" and shape else shape
        found = specs[path] = spec(kind, packed, place.where, key)
        if size != found.nbytes:
            raise FormatError(
                f"entry {key!r} has another size than its shape says",
                where=place.where,
                expected=f"{found.nbytes} bytes",
                found=f"{size} bytes",
            )
        if offset < last:
            raise FormatError(f"entry {key!r} overlaps another", where=place.where)
        spans[path] = Span(offset, size)
        last = offset + size
    plain = {escape("__metadata__") + "/" + escape(key): value for key, value in metadata.items()}
    written_by = metadata.get("format")
    told = {"format": NAME, **({"written_by": {"framework": written_by}} if written_by else {})}
    in_order = {path: specs[path] for path in paths.values()}
    return Safetensors(place, in_order, spans, plain, told)


class Safetensors(FormatSource):
    """One file, its header read."""

    def __init__(
        self,
        file: File,
        specs: dict[str, TensorSpec],
        spans: dict[str, Span],
        plain: dict[str, Any],
        told: dict[str, Any],
    ) -> None:
        super().__init__(file.where, specs, plain, told)
        self._file, self._spans = file, spans

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        return as_array(read_array(self._file, *self._spans[path]), spec)

    def _stands(self, path: str) -> tuple[Readable, int] | None:
        return self._file, self._spans[path].offset


_EXTRA = {"F8_E8M0": dtypes.dtype("float8_e8m0fnu"), "F4": dtypes.dtype("float4_e2m1fn_x2")}
"""Codes that milepost reads and does not write."""
