"""The layout of files: safetensors, with milepost's three rules."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from milepost.core.dtypes import TABLE, DType, dtype
from milepost.core.layout import ALIGNMENT, Entry, Layout, Span, nbytes, overlaps, parse, plan
from milepost.errors import DamagedError

Named = tuple[str, DType, tuple[int, ...]]

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
tensors = st.lists(
    st.tuples(
        st.text(min_size=1).filter(lambda key: key != "__metadata__"), st.sampled_from(list(TABLE.values())), shapes
    ),
    unique_by=lambda tensor: tensor[0],
)


@given(tensors, st.dictionaries(st.text(), st.text()))
def test_every_layout_keeps_the_rules(named: list[Named], metadata: dict[str, str]) -> None:
    layout = plan(named, metadata)
    assert len(layout.header) % ALIGNMENT == 0
    assert sorted(entry[:3] for entry in layout.entries) == sorted(named)
    assert [(-entry.dtype.bits, entry.key) for entry in layout.entries] == sorted(
        (-kind.bits, key) for key, kind, _ in named
    )
    position = len(layout.header)
    for entry in layout.entries:
        assert entry.offset == position
        assert entry.offset % (entry.dtype.bits // 8) == 0
        assert entry.nbytes == nbytes(entry.dtype, entry.shape)
        position += entry.nbytes
    assert layout.size == position
    assert layout.plain == all(kind.code for _, kind, _ in named)


@given(tensors, st.dictionaries(st.text(), st.text()))
def test_parse_reads_what_plan_wrote(named: list[Named], metadata: dict[str, str]) -> None:
    layout = plan(named, metadata)
    entries, found = parse(layout.header, layout.size, "here")
    assert found == metadata
    assert entries == {
        entry.key: (
            entry.dtype.code or "U8", entry.shape if entry.dtype.code else (entry.nbytes,), entry.offset, entry.nbytes,
        )
        for entry in layout.entries
    }  # fmt: skip


@given(tensors, st.dictionaries(st.text(), st.text()))
def test_the_header_is_one_that_the_safetensors_package_reads(named: list[Named], metadata: dict[str, str]) -> None:
    layout = plan(named, metadata)
    loaded = load(layout.header + bytes(layout.size - len(layout.header)))
    assert {key: array.nbytes for key, array in loaded.items()} == {entry.key: entry.nbytes for entry in layout.entries}


def test_bytes_for_a_whole_file() -> None:
    layout = plan(
        [("b", dtype("float32"), (2,)), ("a", dtype("uint8"), (3,)), ("c", dtype("float64"), ())], {"format": "np"}
    )
    assert layout.header[:8] == (4088).to_bytes(8, "little")
    assert json.loads(layout.header[8:]) == {
        "__metadata__": {"format": "np"},
        "c": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [16, 19]},
    }
    assert [(entry.key, entry.offset, entry.nbytes) for entry in layout.entries] == [
        ("c", 4096, 8),
        ("b", 4104, 8),
        ("a", 4112, 3),
    ]
    assert layout.size == 4115


def test_a_file_of_nothing_is_a_header() -> None:
    layout = plan([])
    assert (layout.size, layout.entries, layout.plain) == (4096, (), True)
    assert parse(layout.header, 4096, "here") == ({}, {})


def test_a_long_header_takes_more_pages() -> None:
    layout = plan((f"layer{number}.weight", dtype("float32"), (4,)) for number in range(500))
    assert len(layout.header) > ALIGNMENT
    assert layout.entries[0].offset == len(layout.header)


def test_what_safetensors_has_no_dtype_for_is_raw_bytes_and_not_plain() -> None:
    layout = plan([("z", dtype("complex128"), (2, 3))])
    assert parse(layout.header, layout.size, "here")[0]["z"] == ("U8", (96,), 4096, 96)
    assert not layout.plain


def header_of(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


ENTRY = b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}'


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"", 0),
        (b"\x01\0\0\0", 4),
        (header_of(b"{}")[:9], 9),
        ((2**63).to_bytes(8, "little") + b"{}", 10),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", 10),
        (header_of(b"{}"), 9),
        (header_of(b""), 8),
        (header_of(b"[]"), 10),
        (header_of(b"nonsense"), 16),
        (header_of(b'{"a": \xff}'), 100),
        (header_of(b'{"\xff": {}}'), 100),
        (header_of(b'{"a": 1}'), 100),
        (header_of(b'{"a": {}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [4]}}'), 100),
        (header_of(b'{"a": {"dtype": 8, "shape": [4], "data_offsets": [0, 4]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": 4, "data_offsets": [0, 4]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": ["4"], "data_offsets": [0, 4]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [4.5], "data_offsets": [0, 4]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4, 8]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [-4], "data_offsets": [0, 4]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 1e3]}}'), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, %d]}}' % 10**30), 100),
        (header_of(b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [%d, %d]}}' % (2**64, 2**64 + 4)), 100),
        (header_of(b'{"__metadata__": [1]}'), 100),
        (header_of(b'{"a": ' * 5000 + b"1" + b"}" * 5000), 100_000),
        (header_of(b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"), 100_000),
        (header_of(ENTRY), 8 + len(ENTRY) + 3),
    ],
)
def test_a_hostile_header_is_refused(header: bytes, size: int) -> None:
    with pytest.raises(DamagedError) as caught:
        parse(header, size, "runs/x/step-1/model.safetensors")
    assert caught.value.where == "runs/x/step-1/model.safetensors"


@given(st.binary(max_size=200), st.integers(0, 300))
def test_bytes_at_random_are_read_or_refused(noise: bytes, size: int) -> None:
    for header in (noise, header_of(noise)):
        try:
            entries, _ = parse(header, size, "here")
        except DamagedError:
            continue
        assert all(first >= 0 and first + length <= size for _, _, first, length in entries.values())


@given(st.lists(st.integers(0, 20), max_size=12), st.integers(1, 25), st.integers(0, 5))
def test_overlaps_finds_every_byte_once(sizes: list[int], block: int, begin: int) -> None:
    spans, position = [], begin
    for size in sizes:
        spans.append(Span(position, size))
        position += size
    seen: dict[int, list[int]] = {}
    first = 0
    for start in range(0, position, block):
        stop = min(start + block, position)
        found, first = overlaps(spans, first, start, stop)
        for index, low, high in found:
            assert start <= low < high <= stop
            seen.setdefault(index, []).extend(range(low, high))
    whole = {
        index: list(range(span.offset, span.offset + span.nbytes)) for index, span in enumerate(spans) if span.nbytes
    }
    assert seen == whole


def test_sizes_follow_the_dtype() -> None:
    assert nbytes(dtype("bfloat16"), (3, 5)) == 30
    assert nbytes(dtype("complex128"), ()) == 16
    assert nbytes(dtype("float8_e4m3fn"), (0, 7)) == 0
    assert nbytes(dtype("int4"), (3,)) == 3
    for kind in TABLE.values():
        if kind.numpy is not None:
            assert nbytes(kind, (2, 3)) == np.empty((2, 3), kind.numpy).nbytes


def test_an_entry_is_as_long_as_its_bytes() -> None:
    layout: Layout = plan([("a", dtype("float32"), (3,))])
    assert layout.entries == (Entry("a", dtype("float32"), (3,), 4096, 12),)
