"""Arbitrary nested values, taken apart and put together again by way of JSON."""

import copy
import dataclasses
import enum
import math
import pathlib
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, timedelta, timezone
from typing import Any, NamedTuple

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.core.paths import join, split
from milepost.core.tree import flatten, plain_values, unflatten, walk
from milepost.core.values import Foreign, decode, encode
from milepost.errors import NotFoundError, NotStorableError


class Tensor:
    """Stands for a tensor of any framework: itself only to itself, and nothing that could be stored."""

    __hash__ = object.__hash__


def is_tensor(value):
    return isinstance(value, Tensor)


class Color(enum.Enum):
    RED = "r"
    GREEN = "g"


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 4


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Config:
    lr: Any
    rest: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    name: Any


# -- strategies --------------------------------------------------------------------------------------------------------

TEXT = st.text(st.one_of(st.sampled_from("$~/.\\01d"), st.characters(exclude_categories=())), max_size=6)
ZONES = st.one_of(
    st.sampled_from([zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("America/New_York"), UTC]),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), TEXT),
)


def as_slice(parts):
    return slice(*parts)


def numpy_scalars(kind):
    width = np.dtype(kind).itemsize
    return st.binary(min_size=width, max_size=width).map(lambda raw: np.frombuffer(raw, kind)[0])


NUMBERS = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "longlong", "float16", "float32",
    "float64", "complex64", "complex128", "M8[ns]", "m8[25s]", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
    ml_dtypes.int4,
]  # fmt: skip
HASHABLE_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from([0.0, -0.0, math.nan, 2**53, -(2**53) - 1, 2**3000]),
    TEXT,
    st.binary(max_size=3),
    st.complex_numbers(),
    st.builds(complex, st.floats(), st.floats()),
    st.sampled_from([*Color, Level.LOW, Level.LOW | Level.HIGH, Level(64), ..., np.dtype("float32"), np.dtype(">i2")]),
    st.datetimes(timezones=st.none() | ZONES),
    st.builds(lambda moment, fold: moment.replace(fold=fold), st.datetimes(), st.integers(0, 1)),
    st.dates(),
    st.times(timezones=st.none() | ZONES),
    st.timedeltas(),
    ZONES,
    st.decimals().filter(lambda number: not number.is_snan()),
    st.fractions(),
    st.uuids(),
    st.builds(pathlib.PosixPath, TEXT.filter(lambda text: "\0" not in text)),
    st.builds(range, st.integers(), st.integers(), st.integers(1, 5)),
    *map(numpy_scalars, NUMBERS),
)  # fmt: skip


@st.composite
def brief_repr(draw, strategy):
    """`strategy` under a short name: Hypothesis writes out nested ones again and again."""
    return draw(strategy())


HASHABLE = brief_repr(lambda: HASHABLE_SCALARS)
KEYS = brief_repr(lambda: HASHABLE_KEYS)
HASHABLE_KEYS = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Key, inner),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=4,
)
SCALARS = st.one_of(
    HASHABLE,
    st.binary(max_size=3).map(bytearray),
    st.lists(st.none() | st.integers(-9, 9), min_size=3, max_size=3).map(as_slice),
    st.builds(Foreign, st.just("jax.dtype"), TEXT),
)


def ordered(items, metadata):
    value = OrderedDict(items)
    if metadata:
        value._metadata = metadata
    return value


def containers(inner):
    names = st.one_of(st.text(max_size=3), TEXT)
    plain = st.dictionaries(names, inner, max_size=4)
    mixed = st.dictionaries(
        st.one_of(st.integers(-2, 3), st.sampled_from(["1", "None", "", "0"]), KEYS), inner, max_size=4
    )
    lists = st.lists(inner, max_size=4)
    return st.one_of(
        lists,
        lists.map(tuple),
        st.builds(deque, lists),
        st.builds(deque, lists, st.integers(0, 4)),
        plain,
        mixed,
        st.builds(ordered, plain | mixed, st.none() | plain),
        st.builds(defaultdict, st.sampled_from([None, list, int]), plain | mixed),
        st.dictionaries(KEYS, st.integers(0, 3), max_size=3).map(Counter),
        st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
        st.builds(Pair, inner, inner),
        st.builds(Config, inner, inner),
        st.builds(Key, inner),
        st.builds(set_on, st.builds(Config, inner), inner),
    )


def set_on(config, value):
    config.more = value
    return config


PLAIN = st.recursive(SCALARS, containers, max_leaves=12)
STATE = st.recursive(st.one_of(st.builds(Tensor), st.builds(Tensor), SCALARS), containers, max_leaves=16)


def by_way_of_json(structure):
    return msgspec.json.decode(msgspec.json.encode(structure))


# -- there and back ----------------------------------------------------------------------------------------------------


@given(PLAIN)
def test_plain_values_come_back_as_they_were(identical, value):
    structure = encode(value)
    assert identical(decode(by_way_of_json(structure)), value)
    assert encode(decode(structure)) == structure


@given(STATE, st.sampled_from(["", "model", "a~1b/~"]))
def test_a_state_comes_back_as_it_was(identical, value, prefix):
    structure, leaves = flatten(value, is_tensor, prefix)
    assert all(map(is_tensor, leaves.values()))
    asked = []

    def build(path):
        asked.append(path)
        return leaves[path]

    back = unflatten(by_way_of_json(structure), build, prefix)
    assert identical(back, value)
    assert asked == list(leaves)
    again, same = flatten(back, is_tensor, prefix)
    assert again == structure
    assert same == leaves


@given(STATE, st.sampled_from(["", "model", "a~1b/~"]))
def test_every_value_has_a_path_of_its_own(value, prefix):
    structure, leaves = flatten(value, is_tensor, prefix)
    nodes = list(walk(by_way_of_json(structure), prefix))
    paths = [node.path for node in nodes]
    assert len(set(paths)) == len(paths)
    assert [node.path for node in nodes if node.kind == "tensor"] == list(leaves)
    for path in paths:
        assert join(split(path)) == path
        assert path == prefix or path.startswith(prefix + "/" if prefix else "")
        path.encode()


@given(STATE)
def test_walk_shows_every_plain_value_once(value):
    structure, _ = flatten(value, is_tensor, "x")
    nodes = {node.path: node for node in walk(structure, "x")}
    plain = dict(plain_values(structure, "x"))
    assert set(plain) == {path for path, node in nodes.items() if not node.size and node.kind != "tensor"}
    for path, node in nodes.items():
        inside = [other for other in nodes if other.rpartition("/")[0] == path]
        assert len(inside) == (node.size or 0)
        assert len(node.text(30)) <= 30
        assert node.text(10**9).startswith(node.text(10)[:9])
    for path, shown in plain.items():
        assert encode(shown) == nodes[path].encoded


@given(PLAIN)
def test_without_the_classes_it_is_stored_again_as_it_came(value):
    def elsewhere(node):
        if isinstance(node, list):
            return list(map(elsewhere, node))
        if isinstance(node, dict):
            return {key: f"elsewhere:{item}" if key == "class" else elsewhere(item) for key, item in node.items()}
        return node

    structure = elsewhere(by_way_of_json(encode(value)))
    assert encode(decode(structure)) == structure


# -- paths -------------------------------------------------------------------------------------------------------------


def paths_of(value, prefix=""):
    return list(flatten(value, is_tensor, prefix)[1])


def test_tensors_are_named_by_where_they_are():
    tensor = Tensor()
    state = {
        "layer1.0.weight": tensor,
        "a/b": {"~": tensor},
        "": [tensor, (tensor,)],
        "$": Pair(tensor, deque([tensor])),
        "config": set_on(Config(tensor), tensor),
        "ordered": ordered({"w": tensor}, {"w": tensor}),
    }
    assert paths_of(state, "model") == [
        "model/layer1.0.weight",
        "model/a~1b/~0",
        "model/~/0",
        "model/~/1/0",
        "model/$/first",
        "model/$/second/0",
        "model/config/lr",
        "model/config/more~attribute",
        "model/ordered/w",
        "model/ordered/_metadata~attribute/w",
    ]
    assert paths_of(tensor, "model") == ["model"]
    assert paths_of(tensor) == [""]
    assert paths_of([tensor]) == ["0"]


def test_keys_that_are_no_strings_are_shown_and_told_apart():
    tensor = Tensor()
    keys = [
        0, 1, "1", None, "None", 2.5, "2.5", (1, "a"), "(1, 'a')", math.nan, float("nan"), float("nan"), b"x",
        Color.RED, "Color.RED", Pair(1, 2), frozenset({2, 1}), np.int64(7), 2**70, "~", "1~int", "\ud800", "nan",
    ]  # fmt: skip
    assert paths_of(dict.fromkeys(keys, tensor)) == [
        "0", "1~int", "1", "None~none", "None", "2.5~float", "2.5", "(1, 'a')~tuple", "(1, 'a')", "nan~float",
        "nan~float.2", "nan~float.3", "b'x'", "Color.RED~enum", "Color.RED", "Pair(first=1, second=2)",
        "frozenset([1, 2])", "numpy.int64(7)", "1180591620717411303424", "~0", "1~0int", "~2d800", "nan",
    ]  # fmt: skip
    assert paths_of({None: tensor, 1: tensor}) == ["None", "1"]


def test_a_path_does_not_depend_on_whether_the_class_is_there():
    value = {Color.RED: Tensor(), Key((1, 2)): Tensor()}
    structure, leaves = flatten(value, is_tensor)
    foreign = by_way_of_json(structure)
    for pair in foreign["$dict"]:
        next(iter(pair[0].values()))["class"] = "gone:" + next(iter(pair[0].values()))["class"].partition(":")[2]
    back = unflatten(foreign, leaves.__getitem__)
    assert all(isinstance(key, Foreign) for key in back)
    assert list(flatten(back, is_tensor)[1]) == list(leaves)


def test_one_tensor_at_two_places_is_two_leaves():
    tensor = Tensor()
    _, leaves = flatten({"tied": tensor, "also": [tensor]}, is_tensor)
    assert leaves == {"tied": tensor, "also/0": tensor}


# -- the structure -----------------------------------------------------------------------------------------------------


def test_the_structure_of_dicts_of_tensors_is_compact():
    tensor = Tensor()
    optimizer = {"state": {0: {"step": tensor, "exp/avg": tensor}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    structure, leaves = flatten(optimizer, is_tensor, "optimizer")
    assert structure == {
        "state": {"$dict": [[0, {"$tensors": {"under": "optimizer/state/0", "names": ["step", "exp/avg"]}}]]},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    assert list(leaves) == ["optimizer/state/0/step", "optimizer/state/0/exp~1avg"]
    assert flatten({"a": tensor, "b": 1}, is_tensor)[0] == {"a": {"$tensor": "a"}, "b": 1}
    assert flatten({"$a": tensor}, is_tensor, "m")[0] == {"$tensors": {"under": "m", "names": ["$a"]}}
    assert flatten([tensor], is_tensor, "m")[0] == [{"$tensor": "m/0"}]


def test_flatten_changes_nothing_and_shares_nothing():
    tensor = Tensor()
    state = {"a": [1, tensor, {"b": {1, 2}}], "c": ordered({"d": bytearray(b"e")}, {"f": [1]})}
    before = copy.copy(state["a"])
    structure, leaves = flatten(state, is_tensor, "s")
    assert state["a"] == before
    stored = msgspec.json.encode(structure)
    state["a"][2]["b"].add(3)
    state["a"].clear()
    state["c"]["d"][0] = 0
    state["c"]._metadata["f"].append(2)
    assert msgspec.json.encode(structure) == stored
    assert list(leaves) == ["s/a/1"]


@pytest.mark.parametrize(
    "place", [lambda t: {t: 1}, lambda t: {t}, lambda t: frozenset([(1, t)]), lambda t: slice(t), lambda t: {Key(t): 1}]
)
def test_a_tensor_where_it_can_have_no_path_is_refused(place):
    with pytest.raises(NotStorableError) as caught:
        flatten({"a": place(Tensor())}, is_tensor, "item")
    assert caught.value.where == "item/a"


def test_what_build_raises_is_passed_on():
    def build(path):
        raise NotFoundError("no such tensor", where=path)

    structure, _ = flatten({"a": [Tensor()]}, is_tensor, "m")
    with pytest.raises(NotFoundError) as caught:
        unflatten(structure, build, "m")
    assert caught.value.where == "m/a/0"


def test_walk_shows_the_state():
    state = {
        "w": Tensor(),
        "betas": (0.9, 0.999),
        "best": math.inf,
        "name": "x" * 100,
        "phase": Color.RED,
        "config": Config(0.1, [Tensor()]),
        "seen": {1, 2},
        "state": {0: {"m": Tensor()}},
        "half": np.float16(0.5),
    }
    structure, _ = flatten(state, is_tensor, "x")
    assert [(node.path, node.kind, node.size, node.text(40)) for node in walk(by_way_of_json(structure), "x")] == [
        ("x", "dict", 9, "{'w': <tensor>, 'betas': (0.9, 0.999), …"),
        ("x/w", "tensor", None, "<tensor>"),
        ("x/betas", "tuple", 2, "(0.9, 0.999)"),
        ("x/betas/0", "float", None, "0.9"),
        ("x/betas/1", "float", None, "0.999"),
        ("x/best", "float", None, "inf"),
        ("x/name", "str", None, "'" + "x" * 38 + "…"),
        ("x/phase", "enum", None, "Color.RED"),
        ("x/config", "dataclass", 2, "Config(lr=0.1, rest=[<tensor>])"),
        ("x/config/lr", "float", None, "0.1"),
        ("x/config/rest", "list", 1, "[<tensor>]"),
        ("x/config/rest/0", "tensor", None, "<tensor>"),
        ("x/seen", "set", None, "{1, 2}"),
        ("x/state", "dict", 1, "{0: {'m': <tensor>}}"),
        ("x/state/0", "dict", 1, "{'m': <tensor>}"),
        ("x/state/0/m", "tensor", None, "<tensor>"),
        ("x/half", "numpy.float16", None, "numpy.float16(0.5)"),
    ]


def test_a_long_structure_is_no_trouble(identical):
    state = {"list": list(range(100_000)), "dict": {number: str(number) for number in range(50_000)}}
    structure, _ = flatten(state, is_tensor)
    assert identical(unflatten(by_way_of_json(structure), lambda path: None), state)
    assert sum(1 for _ in walk(structure)) == 150_003
