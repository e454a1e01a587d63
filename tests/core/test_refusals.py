"""What cannot be stored is refused, by its path, with what to do instead."""

import dataclasses
import enum
import functools
import random
import sys
import types
from collections import Counter, OrderedDict, defaultdict
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from milepost.core.values import decode, encode
from milepost.errors import FormatError, NotStorableError


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Config:
    lr: float
    layers: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Clean:
    lr: float

    def __del__(self):
        pass


class Names(dict):
    pass


class Number(int):
    pass


class Scheduler:
    def state_dict(self):
        return {}


class Angry:
    def __repr__(self):
        raise RuntimeError


@dataclasses.dataclass
class Table(dict):
    name: str


def local_class():
    @dataclasses.dataclass
    class Local:
        x: int

    return Local(1)


class Marked(NamedTuple("Marked", [("x", int)])):
    pass


def marked():
    value = Marked(1)
    value.note = "lost otherwise"
    return value


def tagged_counter():
    value = Counter()
    value.note = 1
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (lambda: 0, "state_dict"),
        (print, "state_dict"),
        (int, "state_dict"),
        (Color, "state_dict"),
        (object(), "state_dict"),
        (Angry(), "state_dict"),
        (Names(a=1), "dict(x)"),
        (Number(1), "int(x)"),
        (Scheduler(), "store what its state_dict() returns"),
        (local_class(), "at the top of a module"),
        (Clean(0.1), "__del__"),
        (Table("a"), "container"),
        (marked(), "make them fields"),
        (tagged_counter(), "remove them"),
        (defaultdict(lambda: 0), "store dict(x)"),
        (functools.partial(print), "state_dict"),
        (iter([]), "state_dict"),
        (types.MappingProxyType({}), "state_dict"),
        (memoryview(b""), "state_dict"),
        (np.longdouble(1), "float(x)"),
        (np.clongdouble(1), "complex(x)"),
        (np.void(b"a"), "one by one"),
        (np.zeros(2), "array"),
        (np.random.default_rng(0), "bit_generator.state"),
        (np.random.RandomState(0), "get_state"),
        (random.Random(0), "getstate"),
        (np.dtype([("a", "i4")]), "plain elements"),
        (np.dtype(("i4", 3)), "plain elements"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_stored_is_refused_by_path(value, says):
    with pytest.raises(NotStorableError) as caught:
        encode({"a": [0, {"b/c": value}]}, "vars")
    assert caught.value.where == "vars/a/1/b~1c"
    assert says in caught.value.hint
    assert caught.value.found


def test_a_value_that_contains_itself_is_refused_by_path():
    loop = {"a": [1]}
    loop["a"].append({"back": loop})
    with pytest.raises(NotStorableError) as caught:
        encode(loop, "state")
    assert caught.value.where == "state/a/1/back"
    assert "state" in caught.value.found

    inside = Config(0.1)
    inside.layers.append(inside)
    with pytest.raises(NotStorableError) as caught:
        encode(inside)
    assert caught.value.where == "layers/0"


def test_a_value_that_is_at_two_places_is_no_loop():
    shared = [1]
    assert encode({"a": shared, "b": [shared, shared]}) == {"a": [1], "b": [[1], [1]]}


@pytest.mark.parametrize("levels", [65, 100_000])
def test_a_value_that_is_too_deep_is_refused(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    with pytest.raises(NotStorableError) as caught:
        encode(value, "state")
    assert caught.value.where.startswith("state/0/0")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda v: [v],
        lambda v: (v,),
        lambda v: {1: v},
        lambda v: OrderedDict({1: v}),
        lambda v: Config(0.1, v),
        lambda v: defaultdict(list, {None: v}),
        lambda v: frozenset([v]),
    ],
)
def test_what_is_just_not_too_deep_comes_back(wrap, identical):
    value = 0
    for _ in range(64):
        value = wrap(value)
    stored = encode(value)
    assert identical(decode(msgspec.json.decode(msgspec.json.encode(stored))), value)


def test_a_stack_that_is_nearly_full_is_an_error_of_ours():
    value = 0
    for _ in range(60):
        value = [value]
    stored = encode(value)

    def with_frames_left(depth, call):
        return call() if depth == 0 else with_frames_left(depth - 1, call)

    used = len(list(iter_frames()))
    left = sys.getrecursionlimit() - used - 80
    with pytest.raises(NotStorableError):
        with_frames_left(left, lambda: encode(value))
    with pytest.raises(FormatError):
        with_frames_left(left, lambda: decode(stored))


def iter_frames():
    frame = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
