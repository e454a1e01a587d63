import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.paths import Marked, escape, join, split, unescape
from milepost.errors import FormatError

ANY_TEXT = st.text(st.one_of(st.sampled_from("~/0123d8.-e"), st.characters(exclude_categories=())))
MARKS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,9}", fullmatch=True)
PARTS = st.one_of(ANY_TEXT, st.builds(Marked, ANY_TEXT, MARKS))


@pytest.mark.parametrize(
    ("part", "written"),
    [
        ("layer1.0.weight", "layer1.0.weight"),
        ("a/b", "a~1b"),
        ("m~n", "m~0n"),
        ("~1", "~01"),  # the order of replacing matters, see RFC 6901
        ("~01", "~001"),
        ("/~/", "~1~0~1"),
        ("", "~"),
        ("~", "~0"),
        (" ", " "),
        ("größe", "größe"),
        ("\udce9", "~2dce9"),
        (Marked("1", "int"), "1~int"),
        (Marked("a/b", "torch.dtype"), "a~1b~torch.dtype"),
        (Marked("nan", "float.2"), "nan~float.2"),
        ("1~int", "1~0int"),
    ],
)
def test_a_part_is_written_so(part, written):
    assert escape(part) == written
    assert unescape(written) == part
    assert type(unescape(written)) is type(part)


def test_paths_are_joined_parts():
    assert join([]) == ""
    assert split("") == ()
    assert join(["model", "layer1.weight"]) == "model/layer1.weight"
    assert split("optimizer/state/0/exp_avg") == ("optimizer", "state", "0", "exp_avg")
    assert join([""]) == "~"
    assert split("~/~") == ("", "")


@given(st.lists(PARTS, max_size=5))
def test_split_reverses_join(parts):
    path = join(parts)
    path.encode()  # whatever the keys were, a path is proper text
    assert split(path) == tuple(parts)
    assert [type(part) for part in split(path)] == [type(part) for part in parts]


@given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
def test_different_parts_have_different_paths(first, second):
    # By type too: the mere tuple ("1", "int") would equal a Marked.
    assert (join(first) == join(second)) == (first == second)


@given(st.text(st.sampled_from("~/012d8fa.-_x"), max_size=12))
def test_text_that_is_a_path_is_written_in_one_way(text):
    try:
        parts = split(text)
    except FormatError:
        return
    assert join(parts) == text


@pytest.mark.parametrize(
    "path", ["a//b", "/a", "a/", "~2", "a~2d7ff", "~9", "a~", "~~", "x~1~0~", "1~int~int", "a~é", "a/\ud800"]
)
def test_what_is_no_path_is_refused(path):
    with pytest.raises(FormatError) as caught:
        split(path)
    assert caught.value.where is not None
