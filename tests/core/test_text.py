import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.text import safe

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
UNSAFE = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *BIDI, "\u2028", "\u2029", "\ud800", "\udbff", "\udfff"]


@pytest.mark.parametrize("character", UNSAFE, ids=lambda character: f"U+{ord(character):04X}")
def test_each_unsafe_character_is_shown_as_its_code(character):
    shown = safe(f"a{character}b")

    assert shown.isascii()
    assert shown.isprintable()
    assert shown.encode().decode("unicode_escape") == f"a{character}b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cm0gLXJm\x07", r"\x1b]52;c;cm0gLXJm\x07"),  # OSC 52 writes the clipboard
        ("\x1b]8;;http://evil\x1b\\ok", r"\x1b]8;;http://evil\x1b" + "\\ok"),  # OSC 8 hides a link
        ("\x9b2J\x9d0;title\x9c", r"\x9b2J\x9d0;title\x9c"),  # CSI and OSC as one byte
        ("one\ntwo\r\tthree", r"one\ntwo\r\tthree"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\udce9"),
    ],
)
def test_escapes_are_readable(text, shown):
    assert safe(text) == shown


@pytest.mark.parametrize("text", ["", "model/fc1.weight", "C:\\new [red]x[/red]", "Überschrift 中文 שלום 👩‍👩‍👧 ‰"])
def test_other_text_stays_as_it_is(text):
    assert safe(text) == text


@given(st.text(st.characters()))
def test_any_text_becomes_one_printable_line(text):
    shown = safe(text)

    assert shown.encode("utf-8").decode() == shown
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in shown)
    assert not set(BIDI) & set(shown)
    assert safe(shown) == shown
