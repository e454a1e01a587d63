"""Bundles that no TensorFlow wrote: big-endian or compressed ones that are fine, and ones that were made to do harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tables import HEADER, block, bundle, entry, field, masked, table, varint

import milepost
from milepost.core import paths
from milepost.errors import DamagedError, FormatError, UnsafeContentError
from milepost.formats.tf_entries import slice_key

FLOAT, STRING = 1, 7


Answers = Callable[[list[Path]], list[dict[str, Any]]]


def written(folder: Path, index: bytes, data: bytes = b"") -> Path:
    (folder / "x.index").write_bytes(index)
    (folder / "x.data-00000-of-00001").write_bytes(data)
    return folder / "x"


def test_big_endian(tmp_path: Path) -> None:
    array = np.array([1.5, -2.0, 3.25], ">f4")
    numbers = np.array([3 + 4j], ">c8")
    data = array.tobytes() + numbers.tobytes()
    entries = {
        b"v": entry(FLOAT, (3,), 0, 12, masked(array.tobytes())),
        b"z": entry(8, (1,), 12, 8, masked(numbers.tobytes())),
    }
    source = milepost.open(written(tmp_path, bundle(entries, field(1, 1) + field(2, 1)), data))
    assert source["v"].tolist() == [1.5, -2.0, 3.25]
    assert source["v"].dtype == np.float32
    assert source["z"].tolist() == [3 + 4j]


def test_compressed_blocks(tmp_path: Path) -> None:
    plain = block([(0, b"", HEADER), (0, b"name" * 20, entry(FLOAT, (2,), 0, 8, masked(bytes(8))))])
    # Snappy: all of it as literals, but for the repetitions of "name", which are copies of what stands 4 bytes before.
    at = plain.index(b"name")
    literal = lambda piece: bytes([60 << 2, len(piece) - 1]) + piece  # noqa: E731
    packed = varint(len(plain)) + literal(plain[: at + 4]) + bytes([(60 - 1) << 2 | 2, 4, 0])
    packed += bytes([(8 - 4) << 2 | 1, 4]) + bytes([(8 - 1) << 2 | 3, 4, 0, 0, 0]) + literal(plain[at + 80 :])
    source = milepost.open(written(tmp_path, table([packed], kind=1), bytes(8)))
    assert list(source) == ["name" * 20]
    assert source["name" * 20].tolist() == [0, 0]


@pytest.mark.parametrize(
    "packed",
    [
        varint(1 << 60) + b"\0a",
        varint(5) + bytes([4 << 2]) + b"ab",  # a literal cut short
        varint(5) + bytes([0]) + b"a" + bytes([(4 - 1) << 2 | 2, 9, 0]),  # a copy from before the beginning
        varint(5) + bytes([0]) + b"a" + bytes([(4 - 1) << 2 | 2, 0, 0]),
        varint(5) + bytes([0]) + b"a" + bytes([(60 - 1) << 2 | 2, 1, 0]),  # more than was said
        varint(500) + bytes([0]) + b"a",
        b"",
    ],
)
def test_compressed_blocks_that_lie(tmp_path: Path, packed: bytes) -> None:
    with pytest.raises(FormatError):
        milepost.open(written(tmp_path, table([packed], kind=1)))


def test_a_name_compressed_without_end(tmp_path: Path, answers_of: Answers) -> None:
    entries = [(0, b"", HEADER), (0, b"a" * 10_000, b"")]
    entries += [(10_000, b"%06d" % count, entry(FLOAT, (), 0, 4)) for count in range(200_000)]
    (told,) = answers_of([written(tmp_path, table([block(entries)]), bytes(4))])
    assert told["error"] == "UnsafeContentError"
    assert "longer names" in told["words"]
    assert told["memory"] < 200e6


def test_one_block_named_over_and_over(tmp_path: Path) -> None:
    data = block([(0, b"", HEADER)])
    whole = table([data])
    index = block([(0, b"%04d" % count, varint(0) + varint(len(data))) for count in range(1000)])
    sealed = index + b"\0" + masked(index + b"\0").to_bytes(4, "little")
    body = whole[: len(data) + 5]
    footer = (varint(0) + varint(0) + varint(len(body)) + varint(len(index))).ljust(40, b"\0") + whole[-8:]
    with pytest.raises(FormatError, match="more blocks"):
        milepost.open(written(tmp_path, body + sealed + footer))


@pytest.mark.parametrize(
    "value",
    [
        entry(FLOAT, (1 << 60,), 0, 4),
        entry(FLOAT, (1 << 31, 1 << 31, 1 << 31), 0, 4),
        entry(FLOAT, (0, 1 << 62, 1 << 62), 0, 0),
        entry(FLOAT, (-1, -4), 0, 16),
        entry(FLOAT, (1,) * 65, 0, 4),
        entry(FLOAT, (2,), 0, 4),
        entry(99, (2,), 0, 1 << 63),
        entry(STRING, (1 << 40,), 0, 4),
        entry(STRING, (-1, -1), 0, 4),
        entry(STRING, (2,), 0, 4),
        entry(FLOAT, (4,), 0, 0, extra=field(7, field(1, field(1, 0) + field(2, 2)))),  # a slice that is not there
        field(1, b"text"),
        b"\xff" * 20,
    ],
)
def test_entries_that_cannot_be(tmp_path: Path, value: bytes) -> None:
    place = written(tmp_path, bundle({b"v": value}), bytes(64))
    with pytest.raises((FormatError, DamagedError)):
        milepost.open(place)["v"]


@pytest.mark.parametrize(("offset", "shard"), [(1 << 62, 0), (61, 0), (0, 1), (0, 1 << 40)])
def test_bytes_that_are_not_there(tmp_path: Path, offset: int, shard: int) -> None:
    value = entry(FLOAT, (1,), offset, 4, extra=field(3, shard))
    source = milepost.open(written(tmp_path, bundle({b"v": value}), bytes(64)))
    with pytest.raises(FormatError):
        source["v"]


def sliced(name: bytes, ranges: list[tuple[int, int]]) -> dict[bytes, bytes]:
    """A tensor of 4 floats along one dimension in these slices, all of whose bytes are at the beginning of the data."""
    extents = [field(7, field(1, field(1, start) + field(2, size))) for start, size in ranges]
    return {name: entry(FLOAT, (4,), 0, 0, extra=b"".join(extents))} | {
        slice_key(name, [place]): entry(FLOAT, (place[1],), 0, 4 * place[1], masked(bytes(4 * place[1])))
        for place in ranges
    }


def test_slices_that_overlap_show_no_foreign_memory(tmp_path: Path) -> None:
    assert milepost.open(written(tmp_path, bundle(sliced(b"v", [(0, 3), (3, 1)])), bytes(64)))["v"].tolist() == [0] * 4
    source = milepost.open(written(tmp_path, bundle(sliced(b"v", [(0, 3), (2, 1)])), bytes(64)))
    with pytest.raises(FormatError, match="overlap"):
        source["v"]
    with pytest.raises(FormatError, match="does not fit"):
        milepost.open(written(tmp_path, bundle(sliced(b"v", [(0, 3), (1 << 40, 1)])), bytes(64)))


@pytest.mark.parametrize(
    "name", [b"../../etc/passwd", b"a\0b", b"a\nb\x1b[31m", b"x" * 10_000, b"//", b"", b"\xff\xfe", b"~"]
)
def test_names_of_any_kind(tmp_path: Path, name: bytes) -> None:
    value = entry(FLOAT, (1,), 0, 4, masked(bytes(4)))
    source = milepost.open(written(tmp_path, bundle({b"x" + name: value}), bytes(4)))
    (path,) = source
    assert paths.join(paths.split(path)) == path
    assert source[path] == 0


def graph_of(nodes: list[bytes]) -> tuple[dict[bytes, bytes], bytes]:
    raw = b"".join(field(1, node) for node in nodes)
    lengths = len(raw).to_bytes(4, "little")
    check = masked(lengths).to_bytes(4, "little")
    whole = varint(len(raw)) + check + raw
    key = b"_CHECKPOINTABLE_OBJECT_GRAPH"
    return {key: entry(STRING, (), 0, len(whole), masked(lengths + check + raw))}, whole


def child(target: int, name: bytes) -> bytes:
    return field(1, field(1, target) + field(2, name))


def test_graphs_that_go_in_circles_or_nowhere(tmp_path: Path) -> None:
    node = child(0, b"self") + child(1, b"w") + child(1 << 40, b"nowhere")
    leaf = field(2, field(1, b"VARIABLE_VALUE") + field(3, b"some/key")) + child(0, b"back")
    graph, data = graph_of([node, leaf])
    value = entry(FLOAT, (1,), len(data), 4, masked(bytes(4)))
    source = milepost.open(written(tmp_path, bundle(graph | {b"some/key": value}), data + bytes(4)))
    assert list(source) == ["w"]


@pytest.mark.parametrize(
    "nodes", [[b""] * 260_000, [child(0, b"n") * 130_000, child(0, b"n") * 130_000]], ids=["objects", "references"]
)
def test_more_objects_than_there_are(tmp_path: Path, nodes: list[bytes]) -> None:
    graph, data = graph_of(nodes)
    with pytest.raises(UnsafeContentError):
        milepost.open(written(tmp_path, bundle(graph), data))


def test_a_long_chain_of_objects(tmp_path: Path, answers_of: Answers) -> None:
    deep = 50_000
    nodes = [child(count + 1, b"n" * 100) for count in range(deep)]
    nodes.append(field(2, field(1, b"VARIABLE_VALUE") + field(3, b"key")))
    graph, data = graph_of(nodes)
    value = entry(FLOAT, (1,), len(data), 4, masked(bytes(4)))
    place = written(tmp_path, bundle(graph | {b"key": value}), data + bytes(4))
    assert list(milepost.open(place)) == ["key"]
    (told,) = answers_of([place])
    assert told["memory"] < 200e6


def test_two_variables_of_one_name(tmp_path: Path) -> None:
    leaf = field(2, field(1, b"VARIABLE_VALUE") + field(3, b"k1")) + field(
        2, field(1, b"VARIABLE_VALUE") + field(3, b"k2")
    )
    graph, data = graph_of([child(1, b"w"), leaf])
    value = entry(FLOAT, (1,), len(data), 4, masked(bytes(4)))
    entries = graph | {b"k1": value, b"k2": value, b"w": value, b"w/.ATTRIBUTES/VARIABLE_VALUE": value}
    source = milepost.open(written(tmp_path, bundle(entries), data + bytes(4)))
    assert len(source) == 4
