"""Files that are one pickle, of plain values, numpy arrays, and tensors that were not saved by ``torch.save``."""

from __future__ import annotations

from milepost.core.source import TensorSource
from milepost.errors import UnsafeContentError
from milepost.formats.pickle_machine import NEWEST, Machine
from milepost.formats.place import File, Folder
from milepost.formats.pytorch_names import TorchNames
from milepost.formats.pytorch_told import told
from milepost.formats.unpickled import Contents, PickledSource

NAME = "a pickle"


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`. Protocols 0 and 1 have no mark of their own: of these, files that end as one and
    begin with a container or a call."""
    if not isinstance(place, File) or place.size < 2:
        return False
    if place.head.startswith(b"\x80"):
        return place.head[1] <= NEWEST and place.read(place.size - 1, 1) == b"."
    return place.head.startswith((b"(", b"]", b"}", b"c")) and place.read(place.size - 1, 1) == b"."


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    machine = Machine(place, TorchNames())
    value = machine.run()
    if machine.position != place.size:
        raise UnsafeContentError(
            "something follows the pickle", where=place.where, found=f"{place.size - machine.position} bytes"
        )
    contents = Contents(place.where)
    contents.add(value, "")
    return PickledSource(place.where, contents, {"format": NAME, **told(value)})
