"""SavedModel folders of TensorFlow: the variables, and what the functions that are exported take and return.

``saved_model.pb`` (tensorflow/core/protobuf/saved_model.proto) has graphs too, which may be large and are passed over.
"""

from __future__ import annotations

from typing import Any

from milepost.core.layout import Span
from milepost.core.paths import join
from milepost.core.source import TensorSource
from milepost.errors import FormatError
from milepost.formats.place import File, Folder
from milepost.formats.protobuf import LARGEST, data, datas, number, parse, signed, text, walk
from milepost.formats.source import Nothing
from milepost.formats.tf_bundle import open_bundle
from milepost.formats.tf_types import NAMES

NAME = "a TensorFlow SavedModel"
MODEL = "saved_model.pb"
VARIABLES = "variables/variables.index"


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if isinstance(place, File):
        return place.name == MODEL and place.folder.has(MODEL)
    return place.has(MODEL) or place.has("saved_model.cpb")


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    folder = place.folder if isinstance(place, File) else place
    if not folder.has(MODEL):
        raise FormatError(
            "this SavedModel is split over several files (saved_model.cpb), which is not read",
            where=folder.where,
            hint="name its variables/variables.index to see the variables",
        )
    told, plain = _signatures(folder.file(MODEL))
    if not folder.has(VARIABLES):
        return Nothing(folder.where, plain, told)
    return open_bundle(folder.file(VARIABLES), told, plain, where=folder.where)


def _signatures(model: File) -> tuple[dict[str, Any], dict[str, Any]]:
    """What wrote the model, and its signatures as plain values."""
    told: dict[str, Any] = {"format": NAME, "written_by": {"framework": "tensorflow"}}
    plain: dict[str, Any] = {}
    for count, field in enumerate(walk(model, Span(0, model.size))):
        if field.number != 2 or field.span is None:
            continue
        prefix = [] if not count or not plain else [f"graph {count}"]
        for inner in walk(model, field.span):
            if inner.span is None or inner.number not in (1, 5):
                continue
            if inner.span.nbytes > LARGEST:
                raise FormatError("a part of the model is impossibly large", where=model.where)
            message = parse(model.read(inner.span.offset, inner.span.nbytes), model.where)
            if inner.number == 1:
                told["written_by"]["version"] = text(message, 5)
                told["tags"] = [tag.decode("utf-8", "replace") for tag in datas(message, 4)]
                continue
            if text(message, 1).startswith("__saved_model"):
                continue  # what TensorFlow calls itself when it loads the model
            signature = parse(data(message, 2), model.where)
            for side, number_of in (("inputs", 1), ("outputs", 2)):
                for entry in datas(signature, number_of):
                    named = parse(entry, model.where)
                    path = join([*prefix, "signatures", text(message, 1), side, text(named, 1)])
                    plain[path] = _tensor(data(named, 2), model.where)
    return told, plain


def _tensor(info: bytes, where: str) -> str:
    """A type and shape in words: ``float32 (?, 784)``."""
    found = parse(info, where)
    kind = NAMES.get(number(found, 2), f"type {number(found, 2)}")
    if 3 not in found:
        return kind
    shape = parse(data(found, 3), where)
    if number(shape, 3):
        return f"{kind} of any shape"
    sizes = [signed(number(parse(dim, where), 1)) for dim in datas(shape, 2)]
    return f"{kind} ({', '.join('?' if size < 0 else str(size) for size in sizes)}{',' * (len(sizes) == 1)})"
