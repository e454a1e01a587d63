"""Weights of Keras as ``model.weights.npz``: an archive with the variables of one layer in each array, which is a pickle of a dict.

Keras writes it where it is told to, and does not read what it wrote: its `numpy.load` refuses pickles. Here they go through the
same interpreter as all others, and nothing is run.
"""

from __future__ import annotations

from typing import Any

from milepost.errors import FormatError
from milepost.formats import bounds, npy
from milepost.formats.archive import Archive
from milepost.formats.hdf5 import step_of
from milepost.formats.npz import MOST_ARRAYS
from milepost.formats.pickle_machine import Machine
from milepost.formats.pickle_numpy import NumpyArray
from milepost.formats.pickle_values import Dict, Thing
from milepost.formats.place import Readable, Window
from milepost.formats.pytorch_names import TorchNames
from milepost.formats.source import divided
from milepost.formats.unpickled import Contents, PickledSource

_ROOT = "__root__"


def open_weights(weights: Readable, where: str, told: dict[str, Any], plain: dict[str, Any]) -> PickledSource:
    """The variables, at the paths that they have in ``model.weights.h5``; `notes` has the names that they had in the model.

    Raises:
        FormatError: an array is something else than the variables of a layer.
        UnsafeContentError: a pickle would do what no weights need.
    """
    archive = Archive(weights)
    if len(archive) > bounds.most(MOST_ARRAYS):
        raise bounds.too_much("more layers than are read", where, bound=MOST_ARRAYS, found=len(archive))
    contents, notes = Contents(where), {}
    for member in archive:
        layer = member.removesuffix(".npy")
        above = "vars" if layer == _ROOT else f"{divided(layer)}/vars"
        for key, value in _variables(archive.open(member)):
            path = f"{above}/{divided(str(key))}"
            fields = value.fields() if isinstance(value, Thing) else {"_value": value}
            contents.add(fields.get("_value"), path)
            name = fields.get("_path")
            if isinstance(name, str):
                notes[path] = name
    contents.plain |= plain
    source = PickledSource(where, contents, told)
    source.notes = notes
    step = step_of(source)
    if step is not None:
        told["step"] = step
    return source


def _variables(member: Readable) -> list[tuple[Any, Any]]:
    """The variables of one layer, by their numbers."""
    header = npy.read_header(member)
    if not npy.is_opaque(header):
        raise FormatError("an array is no layer's variables", where=member.where, found=repr(header.descr)[:100])
    value = Machine(Window(member, header.offset, member.size - header.offset), TorchNames()).run()
    inner = value.data if isinstance(value, NumpyArray) and value.kind.objects else None
    if type(inner) is not list or len(inner) != 1 or not isinstance(inner[0], Dict):
        raise FormatError("an array is no layer's variables", where=member.where, expected="a dict")
    return list(inner[0].pairs())
