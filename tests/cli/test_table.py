from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.cli.table import Column, Styled, cells, cut, table
from milepost.core import words


def test_columns_are_as_wide_as_they_must_be() -> None:
    lines, left_out = table(
        [Column("A"), Column("NUMBER", right=True), Column("EMPTY")], [["x", "1", ""], ["long", "22", ""]]
    )
    assert lines == ["A     NUMBER", "x          1", "long      22"]
    assert left_out == []


def test_wide_and_combining_characters_are_counted_in_cells() -> None:
    assert [cells(text) for text in ("abc", "日本", "e\u0301", "×")] == [3, 4, 1, 1]
    lines, _ = table([Column("A"), Column("B")], [["日本", "x"], ["ab", "y"]], titles=False)
    assert lines == ["日本  x", "ab    y"]
    assert cut("日本語", 5) == "日本…"
    assert cut("日本語", 4) == "日…"


def test_what_is_long_gives_first_and_optional_columns_go_before_words_are_lost() -> None:
    columns = [Column("NAME"), Column("loss", optional=1), Column("lr", optional=1), Column("STATE", least=8)]
    rows: list[list[Any]] = [["step-1", "0.25", "0.1", "not good: NaN in model/fc1.weight"]]
    whole, _ = table(columns, rows)
    assert whole[1].endswith("fc1.weight")
    assert table(columns, rows, 40) == (["NAME    loss  lr   STATE", "step-1  0.25  0.1  not good: NaN in mod…"], [])
    assert table(columns, rows, 24) == (["NAME    loss  STATE", "step-1  0.25  not good:…"], ["lr"])
    assert table(columns, rows, 16) == (["NAME    STATE", "step-1  not goo…"], ["loss", "lr"])


@given(
    st.lists(st.lists(st.text("abc日本é ", max_size=20), min_size=3, max_size=3), min_size=1, max_size=5),
    st.integers(20, 80),
)
def test_a_table_that_can_shrink_fits(rows: list[list[str]], room: int) -> None:
    columns = [Column("A", least=4), Column("B", least=4), Column("C", least=4)]
    lines, left_out = table(columns, rows, room)
    assert all(cells(line) <= room for line in lines)
    assert left_out == []
    assert len(lines) in (0, len(rows) + 1)


def test_colour_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    lines, _ = table([Column("A"), Column("B")], [[Styled("x", "red"), "y"]], titles=False)
    assert lines == ["\x1b[31mx\x1b[0m  y"]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_499, "999 kB"),
        (999_500, "1.00 MB"), (5 * 10**12, "5.00 TB"),
    ],
)  # fmt: skip
def test_sizes(nbytes: int, text: str) -> None:
    assert words.size(nbytes) == text


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        now = 1_767_225_600.0  # 2026-01-01T00:00:00Z
        assert words.moment("2025-12-31T23:57:00Z", now) == ("2026-01-01 01:57:00", "3 min ago")
        assert words.moment("2025-12-31T23:57:00", now) == ("2026-01-01 01:57:00", "3 min ago")
        assert words.moment("2026-01-01T00:00:20Z", now) == ("2026-01-01 02:00:20", "0 s ago")
        assert words.moment("2026-01-01T03:00:00Z", now) == ("2026-01-01 05:00:00", "in 3 h")
        assert words.moment("2025-01-01T00:00:00Z", now)[1] == "365 d ago"
        for odd in ("", "yesterday", "9999-12-31T23:59:59Z"):
            assert words.moment(odd, now) == (odd, "")
    finally:
        monkeypatch.undo()
        time.tzset()
