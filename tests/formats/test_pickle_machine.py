"""The machine against CPython's own pickle: the same values in every protocol, and nothing of what a pickle asks for is done."""
# ruff: noqa: E501

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import fractions
import logging
import pathlib
import pickle
import re
import struct
import types
import uuid
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.core.foreign import Foreign
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats import pickle_machine
from milepost.formats.pickle_known import Names
from milepost.formats.pickle_machine import Machine
from milepost.formats.pickle_numpy import NumpyArray
from milepost.formats.pickle_values import Dict, Global, Leaf, Long, Set, Stored, Thing
from milepost.formats.place import Memory
from milepost.formats.unpickled import as_plain


def run(data: bytes) -> Any:
    return Machine(Memory(data, "file.pkl"), Names()).run()


def value_of(made: Any) -> Any:
    """What the machine made, as Python would have made it."""
    if isinstance(made, Dict):
        return {hashable(value_of(key)): value_of(item) for key, item in made.pairs()}
    if isinstance(made, Set):
        kind = frozenset if made.frozen else set
        return kind(value_of(item) for item in made.items)
    if isinstance(made, Leaf):
        ((mark, part),) = made.parts("x", "file.pkl")
        assert mark == ""
        return part.read() if isinstance(part, Stored) else part
    if type(made) in (list, tuple):
        return type(made)(value_of(item) for item in made)
    return made if isinstance(made, Thing | Global | bytearray) else as_plain(made)


def hashable(key: Any) -> Any:
    return key


PLAIN: list[Any] = [
    None, True, False, 0, 1, -1, 255, 256, 65535, 65536, 2**31 - 1, -(2**31), 2**31, 2**63, -(2**63), 2**200, -(2**2000),
    0.0, -0.0, 1.5, 1e300, float("inf"), 1 + 2j, "", "a", "ä\n'\"\\", "\u2028", "x" * 300, b"", b"\x00\xff", b"y" * 300,
    bytearray(b"ab"), [], [1, [2, []]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {"a": {"b": 1}, 2: None, (1, 2): 3},
    set(), {1, 2}, frozenset({"a"}), list(range(3000)), {str(n): n for n in range(3000)},
    collections.OrderedDict(b=1, a=2), collections.defaultdict(list, {"a": [1]}), collections.Counter("aab"),
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.date(2026, 1, 2),
    datetime.time(1, 2, 3), datetime.timedelta(1, 2, 3), datetime.timezone(datetime.timedelta(hours=2), "here"),
    decimal.Decimal("1.50"), fractions.Fraction(1, 3), uuid.UUID(int=5), pathlib.PurePosixPath("/a/b"),
    np.float32(1.5), np.int64(-3), np.bool_(True), np.complex64(1j), np.dtype("float32"), np.dtype(">i2"),
    ml_dtypes.bfloat16(0.5),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:30])
def test_plain_values_of_every_protocol(value: Any, protocol: int) -> None:
    made = value_of(run(pickle.dumps(value, protocol)))
    assert made == value
    expected = {collections.OrderedDict: dict, collections.defaultdict: dict, collections.Counter: dict}
    assert type(made) is expected.get(type(value), type(value))


def test_deque_and_nan() -> None:
    assert run(pickle.dumps(collections.deque([1, 2], 5))) == [1, 2]
    assert np.isnan(run(pickle.dumps(float("nan"))))


ARRAYS = [
    np.arange(6.0), np.arange(6, dtype=">f4").reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1), np.zeros((0, 3)), np.array(5, np.int8), np.array([True, False]),
    np.array([1j], np.complex64), np.ones(3, ml_dtypes.bfloat16), np.ones((2, 2), ml_dtypes.float8_e4m3fn), np.ones(2, np.uint64),
    np.random.default_rng(0).random((200, 300)),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_arrays_of_every_protocol(array: np.ndarray[Any, Any], protocol: int) -> None:
    made = value_of(run(pickle.dumps(array, protocol)))
    np.testing.assert_array_equal(made.astype(array.dtype), array)
    assert made.dtype == array.dtype.newbyteorder("=")
    assert made.shape == array.shape


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_arrays_of_jax(protocol: int) -> None:
    import jax.numpy as jnp

    array = jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)
    made = value_of(run(pickle.dumps(array, protocol)))
    np.testing.assert_array_equal(made, np.asarray(array))
    assert made.dtype == array.dtype


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_text_objects_and_records(protocol: int) -> None:
    assert value_of(run(pickle.dumps(np.array(["a", "bc"]), protocol))) == ["a", "bc"]
    assert value_of(run(pickle.dumps(np.array([None, "x", 3], object), protocol))) == [None, "x", 3]
    records = value_of(run(pickle.dumps(np.zeros(2, [("a", "f4"), ("b", "i4")]), protocol)))
    assert isinstance(records, Foreign)
    assert records.tag == "numpy.ndarray"


class Phase(enum.Enum):
    WARM = "warm"


class Config:
    def __init__(self) -> None:
        self.lr, self.layers, self.phase = 0.1, [784, 10], Phase.WARM


class Slots:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, [2]


class Items(list[int]):
    pass


Point = collections.namedtuple("Point", ["x", "y"])


@pytest.mark.parametrize("protocol", range(6))
def test_objects_of_classes_that_are_only_named(protocol: int) -> None:
    made = run(pickle.dumps(Config(), protocol))
    assert isinstance(made, Thing)
    assert str(made.cls) == f"{__name__}:Config"
    fields = made.fields()
    assert {name: fields[name] for name in ("lr", "layers")} == {"lr": 0.1, "layers": [784, 10]}
    phase = fields["phase"]
    assert "Phase" in str(phase.cls if isinstance(phase, Thing) else phase)
    if protocol >= 2:
        assert run(pickle.dumps(Slots(), protocol)).fields() == {"a": 1, "b": [2]}
        assert run(pickle.dumps(Items([1, 2]), protocol)).items == [1, 2]
    assert 3 in run(pickle.dumps(Point(3, 4), protocol)).args or (3, 4) in run(pickle.dumps(Point(3, 4), protocol)).args
    assert run(pickle.dumps(argparse.Namespace(a=1), protocol)).fields() == {"a": 1}
    assert run(pickle.dumps(types.SimpleNamespace(a=1), protocol)).fields() == {"a": 1}


def test_what_is_harmless_and_met_by_the_way() -> None:
    assert str(run(pickle.dumps(re.compile("a+"))).cls) == "re:_compile"
    assert str(run(pickle.dumps(logging.getLogger("train"))).cls) == "logging:getLogger"
    assert run(pickle.dumps(len)) == Global("builtins", "len")
    assert run(pickle.dumps(ValueError("no"))).args == ("no",)


def test_lists_and_objects_that_hold_themselves() -> None:
    items: list[Any] = [1]
    items.append(items)
    made = run(pickle.dumps(items))
    assert made[1] is made
    config = Config()
    config.me = config  # type: ignore[attr-defined]
    made = run(pickle.dumps(config))
    assert made.fields()["me"] is made


def test_what_is_shared_is_the_same_object() -> None:
    shared = [1]
    made = run(pickle.dumps([shared, shared]))
    assert made[0] is made[1]


def test_long_bytes_and_texts_stay_in_the_file() -> None:
    for protocol in range(6):
        for value in (b"\xe9" * 100_000, "é" * 100_000):
            if protocol == 0 or (protocol < 3 and isinstance(value, bytes)):
                made = run(pickle.dumps([value, 7], protocol))
                kept = made[0]
                assert (kept.read() if isinstance(kept, Long) else kept) == value
                continue
            made = run(pickle.dumps([value, 7], protocol))
            assert made[1] == 7
            assert isinstance(made[0], Long)
            assert made[0].read() == (value if isinstance(value, bytes) else value.encode())


def test_reading_goes_on_across_the_pieces_in_which_a_file_is_read() -> None:
    value = [(f"name{index}", index, index / 7, {"a": [index]}) for index in range(30_000)]
    assert value_of(run(pickle.dumps(value))) == value
    assert value_of(run(pickle.dumps(value, 0))) == value


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner)
        | st.sets(st.integers())
    ),
    max_leaves=30,
)


@settings(deadline=None)
@given(json, st.integers(0, 5))
def test_any_plain_value_in_any_protocol(value: Any, protocol: int) -> None:
    assert value_of(run(pickle.dumps(value, protocol))) == value


# -- opcodes that no pickler of today writes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"I01\n.", True), (b"I00\n.", False), (b"I-5\n.", -5), (b"L12L\n.", 12), (b"F1.5\n.", 1.5), (b"S'a\\'b'\n.", "a'b"),
        (b'S"a"\n.', "a"), (b"U\x01a.", "a"), (b"T\x01\x00\x00\x00\xff.", b"\xff"), (b"V\\u00e9\n.", "é"), (b"(lI1\na.", [1]),
        (b"(I1\nI2\nl.", [1, 2]), (b"I1\n(I2\n1.", 1), (b"I1\n20.", 1), (b"(tp5\n0g5\n.", ()), (b"]r\x05\x00\x00\x000j\x05\x00\x00\x00.", []),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.", None), (b"\x80\x05\x8d\x01\0\0\0\0\0\0\0a.", "a"), (b"\x8e\x01\0\0\0\0\0\0\0a.", b"a"),
        (b"\x8b\x01\0\0\0\xff.", -1), (b"M\x01\x01.", 257), (b"(]Na.", None),
    ],
)  # fmt: skip
def test_single_opcodes(data: bytes, expected: Any) -> None:
    if data == b"(]Na.":
        with pytest.raises(FormatError, match="within a group"):
            run(data)
        return
    assert run(data) == expected


def test_the_old_ways_to_make_objects() -> None:
    for data in (
        b"(i__main__\nConfig\n.",
        b"(c__main__\nConfig\no.",
        b"c__main__\nConfig\n)\x81.",
        b"c__main__\nConfig\n)}\x92.",
    ):
        made = run(data)
        assert isinstance(made, Thing)
        assert str(made.cls) == "__main__:Config"
    made = run(b"(I1\ni__main__\nConfig\n}(S'a'\nI2\nub.")
    assert (made.args, made.fields()) == ((1,), {"a": 2})
    made = run(b"c__main__\nConfig\n)(S'k'\nI1\nd\x92.")
    assert value_of(made.args[0]) == {"k": 1}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut short"), (b"\x80", "cannot be understood|cut short"), (b"X\xff\xff\xff\x7fabc.", "cut short"), (b".", "cannot be understood"),
        (b"NN.", "cannot be understood"), (b"\x80\x06N.", "newer protocol"), (b"\xff.", "not a pickle"), (b"hello world", "."),
        (b"h\x05.", "what it never had"), (b"g99999999999999\n.", "what it never had"), (b"Np-1\n.", "place in the memo"),
        (b"Np99999999999999\n.", "place in the memo"), (b"0.", "cannot be understood"), (b"t.", "cannot be understood"),
        (b"N\x86.", "cannot be understood"), (b"(NNNu.", "cannot be understood"), (b"}(Nu.", "key without a value"), (b"Nb.", "cannot be understood"),
        (b"]Nb.", "has none"), (b"NNs.", "cannot be understood"), (b"]NNs.", "is no dict"), (b"}Na.", "is no list"), (b"](N\x90.", "is no set"),
        (b"NNR.", "no arguments"), (b"N)R.", "is no function"), (b"NQ.", "not in it"), (b"Px\n.", "not in it"), (b"\x97.", "buffer that is not in it"),
        (b"NN\x93.", "no text"), (b"cos", "no end"), (b"I12x\n.", "cannot be understood"), (b"L" + b"9" * 5000 + b"\n.", "impossibly long"),
        (b"\x8b\xff\xff\xff\x7f.", "impossibly long"), (b"S'a\n.", "no quotes"), (b"X\x01\0\0\0\xff.", "cannot be understood"),
        (b"\x8b\xff\xff\xff\xff.", "impossibly long"), (b"N" * 100, "cut short"),
    ],
)  # fmt: skip
def test_what_is_no_pickle(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        run(data)
    assert caught.value.where is not None
    assert "file.pkl" in caught.value.where


def test_a_name_by_number_is_refused() -> None:
    for data in (b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00."):
        with pytest.raises(UnsafeContentError, match="registry"):
            run(data)


def test_changing_a_class_is_refused() -> None:
    with pytest.raises(UnsafeContentError, match="changes a class"):
        run(b"c__main__\nConfig\n}(S'__init__'\nI1\nub.")


def test_opcodes_and_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MOST_OPCODES", 2560)
    with pytest.raises(FormatError, match="more in it than any checkpoint"):
        run(b"N0" * 5000 + b"N.")
    monkeypatch.undo()
    monkeypatch.setattr(pickle_machine, "MOST_MEMORY", 1_000_000)
    for bomb in (
        b"]" * 20_000,
        b"(" * 20_000,
        b"N" + b"\x94" * 20_000,
        (b"U\xff" + b"a" * 255) * 10_000,
        b"K\x05" * 200_000,
    ):
        with pytest.raises(UnsafeContentError, match="fills the memory"):
            run(bomb)


def test_deep_nesting_does_no_harm_to_the_machine() -> None:
    assert type(run(b"N" + b"\x85" * 500_000 + b".")) is tuple


def test_keys_are_never_hashed() -> None:
    deep = b"N" + b"\x85" * 300_000
    made = run(b"}" + deep + b"Ns.")
    assert len(made.flat) == 2
    same = [struct.pack("<B16s", 16, (index * (2**61 - 1)).to_bytes(16, "little")) for index in range(20_000)]
    assert len(run(b"}(" + b"".join(b"\x8a" + key + b"N" for key in same) + b"u.").flat) == 40_000


def test_a_bytearray_and_a_long_one() -> None:
    assert run(pickle.dumps(bytearray(b"abc"), 5)) == bytearray(b"abc")
    made = run(pickle.dumps(bytearray(100_000), 5))
    assert isinstance(made, Long)


def test_an_array_without_its_state_is_empty() -> None:
    made = run(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.")
    assert isinstance(made, NumpyArray)
    assert value_of(made).shape == (0,)
