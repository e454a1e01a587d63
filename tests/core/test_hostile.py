"""Structures that no milepost wrote: refused, or harmless."""

import copy
import dataclasses
import enum
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.tree import flatten, plain_values, unflatten, walk
from milepost.core.values import Foreign, decode, encode
from milepost.errors import DamagedError, FormatError


class Color(enum.Enum):
    RED = "g"


class Level(enum.IntFlag):
    LOW = 1


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Config:
    lr: Any
    rest: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    lr: Any


class Tensor(str):
    """Stands for the tensor of a path."""


@pytest.mark.parametrize(
    "node",
    [
{"$nothing": 1}, {"$": 1}, {"$tuple": [], "more": 1}, {"a": 1, "$tuple": []}, {"$tuple": {}},
        {"$tuple": "abc"}, {"$set": [[]]}, {"$set": [1, 1]}, {"$set": [1, True]}, {"$frozenset": [{}]},
        {"$dict": [[1]]}, {"$dict": [[1, 2, 3]]}, {"$dict": [[1, 2], [1, 3]]}, {"$dict": [[[], 1]]}, {"$dict": {}},
        {"$int": 5}, {"$int": "x"}, {"$int": "1e5"}, {"$int": "9" * 10000}, {"$int": ""}, {"$float": "1.5"},
        {"$float": "NaN(1)"}, {"$str": 5}, {"$bytes": "!"}, {"$bytes": [1]}, {"$complex": [1.0]}, {"$complex": "1j"},
        {"$range": [0, 1, 0]}, {"$slice": []}, {"$ellipsis": []}, {"$fraction": [1, 0]}, {"$decimal": "1,5"},
        {"$uuid": "x"}, {"$datetime": "2026"}, {"$datetime": "x"},
        {"$datetime": {"local": "2026-01-01T00:00:00+01:00"}},
        {"$datetime": {"local": "2026-01-01T00:00:00", "fold": 7}}, {"$date": 5}, {"$time": "25:00"},
        {"$timedelta": [10**12, 0, 0]}, {"$timezone": "+25:00"}, {"$timezone": "Z:"}, {"$timezone": ""},
        {"$posixpath": 1}, {"$deque": {"items": [1, 2], "maxlen": 1}}, {"$deque": {"items": [], "maxlen": -1}},
        {"$deque": {"items": [], "maxlen": 2**70}}, {"$deque": []}, {"$counter": []},
        {"$defaultdict": {"items": {}, "factory": "eval"}}, {"$defaultdict": {"items": [], "factory": "list"}},
        {"$ordered": {"items": {"$ordered": {"items": {}}}}},
        {"$ordered": {"items": {}, "attributes": {"items": 1}}},
        {"$ordered": {"items": {}, "attributes": {"__class__": 1}}}, {"$enum": {"class": 1}}, {"$enum": "x"},
        {"$enum": {"class": "a:b"}}, {"$dataclass": {"class": "a:b"}},
        {"$dataclass": {"class": "a:b", "fields": []}}, {"$namedtuple": {"fields": {}}}, {"$numpy.float16": 0.1},
        {"$numpy.float16": 1e300}, {"$numpy.int8": 300}, {"$numpy.int8": 1.5}, {"$numpy.bool": 1},
        {"$numpy.float32": 10**400}, {"$ml_dtypes.int4": 99}, {"$ml_dtypes.float4_e2m1fn": {"$float": "nan"}},
        {"$numpy.datetime64": [1, "x"]}, {"$numpy.datetime64": [2**70, "s"]},
        {"$numpy.datetime64": [1, "99999999999s"]}, {"$numpy.dtype": "f4,(" + "(" * 1000}, {"$numpy.dtype": "nope"},
        {"$numpy.dtype": "V99999999999"}, {"$numpy.dtype": "i4,i4"}, {"$tensor": "model/weight"},
        {"$tensors": {"under": "", "names": ["a"]}}, {"a": (1, 2)}, {"a": b"x"}, {1: 2}, object(),
    ],
    ids=lambda node: repr(node).partition(" at 0x")[0][:50],
)  # fmt: skip
def test_what_is_no_value_is_a_format_error_with_its_path(node):
    with pytest.raises(FormatError) as caught:
        decode([0, {"a": node}], "item")
    assert caught.value.where.startswith("item/1/a")


def test_what_a_newer_milepost_may_write_says_so():
    with pytest.raises(FormatError) as caught:
        decode({"$matrix": []})
    assert "update" in caught.value.hint


@pytest.mark.parametrize(
    "layer",
    [
        lambda node: [node],
        lambda node: {"a": node},
        lambda node: {"$tuple": [node]},
        lambda node: {"$dict": [[node, 1]]},
    ],
)
@pytest.mark.parametrize("levels", [200, 50_000])
def test_what_is_too_deep_is_a_format_error(layer, levels):
    node = None
    for _ in range(levels):
        node = layer(node)
    with pytest.raises(FormatError):
        decode(node)


def test_what_this_system_does_not_have_gives_a_stand_in():
    for node in (
        {"$windowspath": "c:\\a"},
        {"$zoneinfo": "Mars/Olympus"},
        {"$zoneinfo": "Europe"},
        {"$zoneinfo": "../../etc/passwd"},
        {"$datetime": {"local": "2026-01-01T00:00:00", "zone": {"$zoneinfo": "Mars/Olympus"}, "fold": 0}},
    ):
        try:
            value = decode(node)
        except FormatError:
            assert "passwd" in str(node)  # no key of a zone at all
            continue
        assert isinstance(value, Foreign)
        assert encode(value) == node


TAGS = [
    "tensor", "tensors", "dict", "tuple", "set", "frozenset", "deque", "ordered", "defaultdict", "counter", "enum",
    "namedtuple", "dataclass", "int", "float", "str", "bytes", "bytearray", "complex", "range", "slice", "ellipsis",
    "fraction", "decimal", "uuid", "posixpath", "windowspath", "datetime", "time", "date", "timedelta", "timezone",
    "zoneinfo", "numpy.dtype", "numpy.float16", "numpy.datetime64", "numpy.complex64", "ml_dtypes.bfloat16",
    "torch.dtype", "nothing", "os.system",
]  # fmt: skip
WORDS = [
    "class", "name", "value", "fields", "items", "attributes", "unset", "maxlen", "factory", "under", "names",
    "local", "zone", "fold", "offset", "$tuple", "$dict", "", "lr", "rest", "first", "second", "__class__",
    "__dict__", "_metadata", "more",
]  # fmt: skip
STRINGS = [
    f"{__name__}:Color", f"{__name__}:Config", f"{__name__}:Pair", f"{__name__}:Key", f"{__name__}:Level",
    "os:system", "builtins:eval", "RED", "g", "nan", "0x10", "list", "2026-01-01T00:00:00", "+01:00",
    "Europe/Berlin", "UTC", "float32", "25s", "generic", "aGk=",
]  # fmt: skip
HOSTILE = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 5), st.integers(), st.floats(), st.sampled_from(STRINGS), st.text()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.lists(inner, min_size=2, max_size=2), max_size=3),
        st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
        st.builds(lambda tag, payload: {"$" + tag: payload}, st.sampled_from(TAGS), inner),
    ),
    max_leaves=12,
)


def survive(structure):
    """Whatever `structure` is, reading it ends in a value or in an error that says what is wrong."""
    for read in (
        lambda: unflatten(structure, lambda path: path, "x"),
        lambda: decode(structure, "x"),
        lambda: [node.text() for node in walk(structure, "x")],
        lambda: list(plain_values(structure, "x")),
    ):
        try:
            read()
        except (FormatError, DamagedError) as error:
            where = error.where
        else:
            continue
        assert where.startswith("x")


@given(HOSTILE)
def test_hostile_structures_are_refused_or_harmless(structure):
    survive(structure)


SOUND = [
    {"$ordered": {"items": {"$tensors": {"under": "x", "names": ["a", "b"]}}, "attributes": {"_metadata": {"a": 1}}}},
    {"state": {"$dict": [[0, {"m": {"$tensor": "x/state/0/m"}, "n": 1}], [{"$tuple": [1, "a"]}, None]]}},
    {"$dataclass": {"class": f"{__name__}:Config", "fields": {"lr": 1, "rest": [2]}, "attributes": {"more": 3}}},
    {"$dataclass": {"class": f"{__name__}:Key", "fields": {}, "unset": ["lr"]}},
    {"$namedtuple": {"class": f"{__name__}:Pair", "fields": {"first": 1, "second": {"$set": [1, 2]}}}},
    [{"$enum": {"class": f"{__name__}:Color", "name": "RED", "value": "g"}}],
    [{"$enum": {"class": f"{__name__}:Level", "name": "LOW", "value": 1}}],
    {"$deque": {"items": [1], "maxlen": 3}},
    {"$defaultdict": {"items": {"a": []}, "factory": "list"}},
    {
        "$datetime": {
            "local": "2026-01-01T00:00:00",
            "zone": {"$timezone": {"offset": "+01:00", "name": "X"}},
            "fold": 0,
        }
    },
    [{"$numpy.datetime64": [1, "s"]}, {"$numpy.complex64": [0.5, {"$float": "nan"}]}, {"$numpy.dtype": "float32"}],
]


@pytest.mark.parametrize("structure", SOUND)
def test_what_is_damaged_below_was_sound(structure):
    assert flatten(unflatten(structure, Tensor, "x"), lambda value: type(value) is Tensor, "x")[0] == structure


@given(st.sampled_from(SOUND), HOSTILE, st.randoms(use_true_random=False))
def test_damaged_structures_are_refused_or_harmless(sound, damage, random):
    holder: Any = {"root": copy.deepcopy(sound)}
    nodes = [holder]
    for node in nodes:
        nodes += [item for item in (node.values() if isinstance(node, dict) else node) if isinstance(item, dict | list)]
    node = random.choice(nodes)
    if isinstance(node, list):
        node[random.randrange(len(node)) if node else 0 :] = [damage]
    elif node:
        node[random.choice(list(node))] = damage
    survive(holder["root"])


@pytest.mark.parametrize("levels", [60, 130, 1000, 100_000])
@pytest.mark.parametrize(
    "tag", [None, "tuple", "set", "frozenset", "dict", "key", "ordered", "dataclass", "torch.x", "slice"]
)
def test_however_deep_a_structure_is(tag, levels):
    structure: Any = 1
    for _ in range(levels):
        structure = {
            None: [structure],
            "dict": {"$dict": [[1, structure]]},
            "key": {"$dict": [[structure, 1]]},
            "ordered": {"$ordered": {"items": {"a": structure}}},
            "dataclass": {"$dataclass": {"class": "a:b", "fields": {"a": structure}}},
        }.get(tag, {f"${tag}": [structure]})
    survive(structure)
