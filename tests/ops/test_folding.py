"""A tree that is too long: nothing is lost uncounted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core import dtypes
from milepost.core.source import TensorSpec
from milepost.formats.source import Nothing
from milepost.ops.contents import Entry
from milepost.ops.folding import Line, fold
from milepost.ops.outline import outline

PARTS = st.sampled_from(["a", "b", "layer.0", "layer.1", "layer.2", "10"])


def tree(tensors: dict[str, int], plain: dict[str, Any] | None = None) -> list[Entry]:
    source = Nothing("x", plain or {}, {})
    source._specs = {path: TensorSpec(dtypes.dtype("uint8"), (size,), size) for path, size in tensors.items()}
    return outline(source)


def values(lines: list[Line]) -> int:
    """The values that lines stand for, each line below one that stands for several counted as often."""
    total, times = 0, [1]
    for line in lines:
        del times[line.depth + 1 :]
        if line.entry is None:
            total += times[-1] * line.hidden
            continue
        times.append(times[-1] * line.times)
        if line.hidden or line.entry.size is None:
            total += times[-1] * (line.hidden or 1)
    return total


@given(st.dictionaries(st.lists(PARTS, min_size=3, max_size=3).map("/".join), st.integers(0, 3)), st.integers(1, 30))
def test_every_value_is_shown_or_counted(tensors: dict[str, int], most: int) -> None:
    entries = tree(tensors)
    lines = fold(entries, most)
    assert values(lines) == len(tensors)
    assert [line.name for line in fold(entries, None)] == [
        entry.path.rpartition("/")[2] if entry.depth else entry.path for entry in entries
    ]


def test_what_is_alike_is_one_line() -> None:
    blocks = {f"model/h.{block}.{part}": size for block in range(12) for part, size in (("w", 100), ("b", 10))}
    lines = fold(tree(blocks | {"model/head": 7}), 10)
    assert [(line.name, line.times, line.entry and line.entry.nbytes) for line in lines] == [
        ("model", 1, 1327), ("h.{0…11}.w", 12, 1200), ("h.{0…11}.b", 12, 120), ("head", 1, 7),
    ]  # fmt: skip


def test_a_hundred_thousand_that_are_alike_are_one_line() -> None:
    lines = fold(tree({f"layer.{number}/w": 4 for number in range(100_000)}), 100)
    assert [(line.name, line.times) for line in lines] == [("layer.{0…99999}", 100_000), ("w", 1)]


def test_groups_of_plain_values_close_first() -> None:
    entries = tree({"model/w": 3}, {f"config/{name}": 1 for name in "abcdefgh"})
    lines = fold(entries, 5)
    assert [(line.name, line.hidden) for line in lines] == [("model", 0), ("w", 0), ("config", 8)]


def test_the_middle_of_a_long_group_is_counted() -> None:
    entries = tree({f"w{'x' * number}": number for number in range(100)})
    lines = fold(entries, 12)
    assert [line.name for line in lines[-2:]] == ["…", "w" + "x" * 99]
    assert (lines[-2].times, lines[-2].nbytes) == (89, sum(range(10, 99)))


@pytest.mark.parametrize(
    ("depth", "names"), [(1, ["a", "d"]), (2, ["a", "b", "c", "d"]), (3, ["a", "b", "x", "y", "c", "d"])]
)
def test_depth(depth: int, names: list[str]) -> None:
    entries = tree({"a/b/x": 1, "a/b/y": 1, "a/c": 1, "d": 1})
    assert [line.name for line in fold(entries, None, depth)] == names
