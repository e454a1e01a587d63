"""ONNX models (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto): the initializers of all graphs, and what goes in and out.

Tensors may be in files beside the model; only such in the model's own folder are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from milepost.core import dtypes
from milepost.core.layout import Span
from milepost.core.paths import escape, join
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats import bounds
from milepost.formats.bits import packed_size, unpack
from milepost.formats.place import Ahead, File, Folder, Readable, Window, read_array
from milepost.formats.protobuf import LARGEST, Field, Fields, data, datas, number, numbers, parse, signed, text, walk
from milepost.formats.source import FormatSource, as_array, divided, spec, unused

NAME = "an ONNX model"
STRING = 8
TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn",
    18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4_e2m1fn",
    24: "float8_e8m0fnu", 25: "uint2", 26: "int2", 27: "float6_e2m3fn", 28: "float6_e3m2fn",
}  # fmt: skip
PACKED = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 27: 6, 28: 6}
"""Bits of an element, where it is less than a byte."""
MOST = 800_000
"""Nodes, tensors, and what has bytes of its own in them."""
DEEPEST = 32
"""Graphs within graphs."""
LARGEST_TEXT = 16 * 1024 * 1024

_MODEL = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_SEGMENT, _FLOATS, _INTS, _STRINGS, _LONGS, _RAW, _DOUBLES, _UNSIGNED, _EXTERNAL, _LOCATED = (
    3,
    4,
    5,
    6,
    7,
    9,
    10,
    11,
    13,
    14,
)
_DATA = frozenset({_FLOATS, _INTS, _STRINGS, _LONGS, _RAW, _DOUBLES, _UNSIGNED, _EXTERNAL})
SMALL = 4096
"""Bytes of a message that is read as a whole, with the data of a small tensor."""
_TYPED: dict[int, np.dtype[Any]] = {_FLOATS: np.dtype("<f4"), _DOUBLES: np.dtype("<f8")}


class Tensor(NamedTuple):
    """Where the message of a tensor is, and whether its data are in another file."""

    kind: int
    message: Span
    external: bool


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, File) or not place.head.startswith(b"\x08"):
        return False
    seen: list[int] = []
    cut_short = False
    try:
        for field in walk(Ahead(place), Span(0, place.size)):
            if field.number not in _MODEL or (not seen and field.value > 1000) or len(seen) > MOST:
                return False
            seen.append(field.number)
    except FormatError:
        cut_short = True
    return 7 in seen or (cut_short and 2 in seen)


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    return _Reader(place).model()


class Onnx(FormatSource):
    """One model, its messages found."""

    def __init__(
        self,
        file: File,
        specs: dict[str, TensorSpec],
        tensors: dict[str, Tensor],
        plain: dict[str, Any],
        told: dict[str, Any],
    ) -> None:
        super().__init__(file.where, specs, plain, told)
        self._file, self._tensors = file, tensors

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        tensor = self._tensors[path]
        bits = PACKED.get(tensor.kind)
        found = _outside(self._file, tensor) if tensor.external else _inside(self._file, tensor)
        if found is None:
            return _typed(self._file, tensor, spec)
        size = spec.nbytes if bits is None else packed_size(spec.nbytes, bits)
        if found.size != size:
            raise FormatError(
                f"tensor {path!r} has another size than its shape says",
                where=found.where,
                expected=f"{size} bytes",
                found=f"{found.size} bytes",
            )
        raw = read_array(found, 0, size)
        return as_array(raw if bits is None else unpack(raw, bits, spec.nbytes), spec)


class _Reader:
    """Goes through a model and notes what is in it."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._near = Ahead(file)
        self._left, self._text_left = bounds.most(MOST), bounds.most(LARGEST_TEXT)
        self._specs: dict[str, TensorSpec] = {}
        self._tensors: dict[str, Tensor] = {}
        self._plain: dict[str, Any] = {}

    def model(self) -> Onnx:
        told: dict[str, Any] = {"format": NAME, "written_by": {}, "opsets": {}}
        trainings = functions = 0
        for field in self._fields(Span(0, self._file.size)):
            if field.number == 1:
                told["version"] = field.value
            elif field.span is None:
                continue
            elif field.number in (2, 3):
                name = "framework" if field.number == 2 else "version"
                told["written_by"][name] = self._bytes(field.span).decode("utf-8", "replace")
            elif field.number == 8:
                opset = parse(self._bytes(field.span), self._file.where)
                told["opsets"][text(opset, 1) or "ai.onnx"] = number(opset, 2)
            elif field.number == 14:
                entry = parse(self._bytes(field.span), self._file.where)
                self._plain[unused(join(["metadata", text(entry, 1)]), self._plain)] = text(entry, 2)
            elif field.number == 7:
                self._graph(field.span, "", DEEPEST)
            elif field.number == 20:
                for part in self._fields(field.span):
                    if part.number in (1, 2) and part.span is not None:
                        side = "initialization" if part.number == 1 else "algorithm"
                        self._graph(part.span, f"training/{trainings}/{side}/", DEEPEST)
                trainings += 1
            elif field.number == 25:
                for part in self._fields(field.span):
                    if part.number == 7 and part.span is not None:
                        self._node(part.span, f"functions/{functions}/", 0, DEEPEST)
                functions += 1
        return Onnx(self._file, self._specs, self._tensors, self._plain, told)

    def _graph(self, span: Span, prefix: str, depth: int) -> None:
        if not depth:
            raise UnsafeContentError("graphs within graphs without end", where=self._file.where)
        nodes = 0
        for field in self._fields(span):
            if field.span is None:
                continue
            if field.number == 1:
                self._node(field.span, prefix, nodes, depth)
                nodes += 1
            elif field.number == 5:
                self._tensor(field.span, prefix, None)
            elif field.number == 15:
                self._sparse(field.span, prefix)
            elif field.number in (11, 12) and depth == DEEPEST:
                side = "inputs" if field.number == 11 else "outputs"
                value = parse(self._bytes(field.span), self._file.where)
                path = unused(f"{prefix}{side}/{escape(text(value, 1))}", self._plain)
                self._plain[path] = _described(data(value, 2), self._file.where)

    def _node(self, span: Span, prefix: str, count: int, depth: int) -> None:
        """Look for graphs in the attributes of a node."""
        attributes, name = [], f"node {count}"
        for field in self._fields(span):
            if field.number == 3 and field.span is not None and field.span.nbytes:
                name = self._bytes(field.span).decode("utf-8", "replace")
            elif field.number == 5 and field.span is not None:
                attributes.append(field.span)
        for attribute in attributes:
            label, graphs = "", []
            for field in self._fields(attribute):
                if field.number == 1 and field.span is not None:
                    label = self._bytes(field.span).decode("utf-8", "replace")
                elif field.number in (6, 11) and field.span is not None:
                    graphs.append(field.span)
            for index, graph in enumerate(graphs):
                inner = f"{prefix}{divided(name)}/{escape(label)}/"
                self._graph(graph, inner if len(graphs) == 1 else f"{inner}{index}/", depth - 1)

    def _tensor(self, span: Span, prefix: str, as_name: str | None) -> str:
        """Note the tensor whose message is `span`; returns its path."""
        where = self._file.where
        fields = self._without_data(span)
        if _SEGMENT in fields:
            raise FormatError("tensors in segments are not read", where=where)
        kind, shape = number(fields, 2), tuple(map(signed, numbers(fields, 1)))
        path = unused(prefix + divided(text(fields, 8) if as_name is None else as_name), self._specs, self._plain)
        if kind == STRING:
            self._plain[path] = self._strings(span, shape, path)
            return path
        if kind not in TYPES:
            raise FormatError(f"tensor {path!r} has an unknown type", where=where, found=f"type {kind}")
        self._specs[path] = spec(dtypes.dtype(TYPES[kind]), shape, where, path)
        self._tensors[path] = Tensor(kind, span, number(fields, _LOCATED) == 1)
        return path

    def _without_data(self, span: Span) -> Fields:
        """The fields of a tensor's message, at once if it is small: there may be 200,000 of them."""
        if span.nbytes <= SMALL:
            found = parse(self._near.read(*span), self._file.where)
            self._left -= sum(map(len, found.values())) // 8
            return found
        found = {}
        for field in self._fields(span):
            if field.number not in _DATA:
                value = field.value if field.span is None else self._bytes(field.span)
                found.setdefault(field.number, []).append(value)
        return found

    def _sparse(self, span: Span, prefix: str) -> None:
        """Note the tensors that a sparse one is made of."""
        parts: dict[int, Span] = {}
        dims: list[int] = []
        for field in self._fields(span):
            if field.number in (1, 2) and field.span is not None:
                parts[field.number] = field.span
            elif field.number == 3:
                dims += [field.value] if field.span is None else numbers({3: [self._bytes(field.span)]}, 3)
        if parts.keys() != {1, 2}:
            raise FormatError("a sparse tensor has no values or no indices", where=self._file.where)
        name = ""
        for field in self._fields(parts[1]):
            if field.number == 8 and field.span is not None:
                name = self._bytes(field.span).decode("utf-8", "replace")
        self._tensor(parts[1], prefix, f"{name}/values")
        self._tensor(parts[2], prefix, f"{name}/indices")
        self._plain[unused(f"{prefix}{divided(name)}/dims", self._plain)] = list(map(signed, dims))

    def _strings(self, span: Span, shape: tuple[int, ...], path: str) -> Any:
        spans = [field.span for field in self._fields(span) if field.number == _STRINGS and field.span is not None]
        count = spec(dtypes.dtype("uint8"), shape, self._file.where, path).nbytes
        if count != len(spans):
            raise FormatError(f"tensor {path!r} has another size than its shape says", where=self._file.where)
        found: list[Any] = [self._bytes(span).decode("utf-8", "replace") for span in spans]
        return np.array(found, object).reshape(shape).tolist()

    def _fields(self, span: Span) -> Iterator[Field]:
        for field in walk(self._near, span):
            self._left -= field.span is not None
            if self._left < 0:
                raise bounds.too_much("more nodes and tensors than any model has", self._file.where, bound=MOST)
            yield field

    def _bytes(self, span: Span) -> bytes:
        """Text and small messages, of which there is so much only."""
        self._text_left -= span.nbytes
        if self._text_left < 0:
            raise bounds.too_much("more text than any model has", self._file.where, bound=LARGEST_TEXT)
        return self._near.read(*span)


def _inside(file: File, tensor: Tensor) -> Readable | None:
    """The bytes of a tensor in the model; None if it has numbers instead."""
    found = None
    for field in walk(Ahead(file), tensor.message):
        if field.number == _RAW and field.span is not None:
            found = Window(file, *field.span)
    return found


def _outside(file: File, tensor: Tensor) -> Readable:
    """The bytes of a tensor in another file.

    Raises:
        UnsafeContentError: that file is not in the folder of the model alone.
        FormatError, NotFoundError: it is shorter than that, or not there.
    """
    external: dict[str, str] = {}
    for field in walk(Ahead(file), tensor.message):
        if field.number == _EXTERNAL and field.span is not None:
            if field.span.nbytes > SMALL:
                raise UnsafeContentError("the name of another file is impossibly long", where=file.where)
            entry = parse(file.read(*field.span), file.where)
            external[text(entry, 1)] = text(entry, 2)
    found = file.folder.file(external.get("location", ""), file.where)
    if found.names > 1:  # as onnx itself has it: an unpacked archive can contain a hard link to any file of this disk
        raise UnsafeContentError(
            "the data of a tensor have a second name, which may be anywhere",
            where=found.where,
            found=f"{found.names} hard links",
            hint="copy the file, if you trust it",
        )
    try:
        offset = int(external.get("offset", "0"))
        size = int(external["length"]) if "length" in external else found.size - offset
    except ValueError:
        raise FormatError("it is not said where in the other file a tensor is", where=file.where) from None
    return Window(found, offset, size)


def _typed(file: File, tensor: Tensor, spec: TensorSpec) -> npt.NDArray[Any]:
    """A tensor whose elements are numbers of the message, which the writers of old and by hand prefer to bytes."""
    pieces: list[npt.NDArray[Any]] = []
    for field in walk(Ahead(file), tensor.message):
        if field.number in _TYPED:
            real = _TYPED[field.number]
            if field.span is not None:
                pieces.append(read_array(file, *field.span).view(real))
            else:
                pieces.append(np.array([field.value], f"<u{real.itemsize}").view(real))
        elif field.number in (_INTS, _LONGS, _UNSIGNED):
            values = [field.value]
            if field.span is not None:
                if field.span.nbytes > LARGEST:
                    raise FormatError("a tensor is impossibly large for how it is written", where=file.where)
                values = numbers({1: [file.read(*field.span)]}, 1)
            pieces.append(np.array(values, np.uint64))
    found = np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
    bits, kind = PACKED.get(tensor.kind), spec.dtype.numpy
    assert kind is not None
    if bits == 6:  # one a number, unlike the smaller ones
        raw = found.astype(np.uint8) & np.uint8(63)
    elif bits is not None:
        raw = unpack(found.astype(np.uint8), bits, spec.nbytes)
    elif found.dtype.kind == "f":
        raw = found.astype(f"f{kind.itemsize // 2}" if kind.kind == "c" else kind).view(np.uint8)
    else:
        # Whatever the type, its bits are the low ones.
        raw = found.astype(f"u{kind.itemsize}").view(np.uint8)
    return as_array(raw, spec)


def _described(kind: bytes, where: str) -> str:
    """A type and shape in words: ``float32 (batch, 3, 224, 224)``."""
    found = parse(kind, where)
    if 1 not in found:
        return "not a tensor"
    tensor = parse(data(found, 1), where)
    name = "string" if number(tensor, 1) == STRING else TYPES.get(number(tensor, 1), f"type {number(tensor, 1)}")
    if 2 not in tensor:
        return f"{name} of any shape"
    dims = [parse(dim, where) for dim in datas(parse(data(tensor, 2), where), 1)]
    sizes = [str(signed(number(dim, 1))) if 1 in dim else text(dim, 2) or "?" for dim in dims]
    return f"{name} ({', '.join(sizes)}{',' * (len(sizes) == 1)})"
