"""Random generators: states come back bit for bit, courses leave no trace, and what is absent is handed on."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import MismatchError
from milepost.training import rng
from milepost.training.generators import Finder, find_generators

MAKERS: dict[str, Callable[[int], Any]] = {
    "random.Random": random.Random,
    "PCG64": np.random.default_rng,
    "PCG64DXSM": lambda seed: np.random.Generator(np.random.PCG64DXSM(seed)),
    "MT19937": lambda seed: np.random.Generator(np.random.MT19937(seed)),
    "Philox": lambda seed: np.random.Generator(np.random.Philox(seed)),
    "SFC64": lambda seed: np.random.Generator(np.random.SFC64(seed)),
    "RandomState": np.random.RandomState,
    "RandomState over PCG64": lambda seed: np.random.RandomState(np.random.PCG64(seed)),
    "BitGenerator": np.random.Philox,
}


def draw(generator: Any) -> list[float]:
    """Single numbers, and an odd count of 32-bit and normal ones, which leave something over in most generators."""
    if isinstance(generator, np.random.BitGenerator):
        generator = np.random.Generator(generator)
    if isinstance(generator, random.Random):
        return [generator.random(), generator.gauss(0, 1), generator.random()]
    integers = getattr(generator, "integers", getattr(generator, "randint", None))
    assert integers is not None
    return [*generator.standard_normal(3), *integers(0, 100, 3, dtype=np.uint32)]


def draw_global() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.randn(), np.random.rand(), np.random.randint(9)]


def seed_global(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)


def assert_plain(value: object) -> None:
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        for item in value.values():
            assert_plain(item)
    elif isinstance(value, np.ndarray):
        assert value.dtype in (np.uint8, np.uint32, np.uint64)
    else:
        assert value is None or type(value) in (str, int, float)


@pytest.mark.parametrize("maker", MAKERS)
def test_generators_come_back_in_another_object(maker: str) -> None:
    generator = MAKERS[maker](1)
    draw(generator)
    state = rng.capture_generator(generator)
    assert_plain(state)
    expected = [draw(generator) for _ in range(3)]
    other = MAKERS[maker](2)
    rng.restore_generator(other, state)
    assert [draw(other) for _ in range(3)] == expected
    native = rng.read_generator(other)
    following = draw(other)
    rng.write_generator(other, native)
    assert draw(other) == following


@pytest.mark.parametrize("maker", MAKERS)
def test_seeding_depends_on_the_seed_alone(maker: str) -> None:
    first, second = MAKERS[maker](1), MAKERS[maker](2)
    draw(second)
    rng.seed_generator(first, 2**100 + 7)
    rng.seed_generator(second, 2**100 + 7)
    drawn = draw(first)
    assert drawn == draw(second)
    rng.seed_generator(first, 2**101 + 7)
    assert draw(first) != drawn


def test_another_kind_of_generator_is_refused_by_path() -> None:
    for saved, here in [("PCG64", "Philox"), ("random.Random", "PCG64"), ("RandomState", "RandomState over PCG64")]:
        state = rng.capture_generator(MAKERS[saved](1))
        with pytest.raises(MismatchError, match=r"model\.rng"):
            rng.restore_generator(MAKERS[here](1), state, "model.rng")


def test_what_is_a_generator() -> None:
    assert all(rng.is_generator(maker(1)) for maker in MAKERS.values())
    assert not any(rng.is_generator(other) for other in (random.SystemRandom(), random, np.random, 3, random.Random))


# -- global generators -------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), before=st.integers(0, 5))
def test_global_states_come_back(seed: int, before: int) -> None:
    seed_global(seed)
    for _ in range(before):
        draw_global()
    everything = rng.GlobalRng()
    saved = everything.capture()
    assert_plain(saved["python"])
    assert_plain(saved["numpy"])
    expected = [draw_global() for _ in range(3)]
    assert everything.restore(saved) == []
    assert [draw_global() for _ in range(3)] == expected


def test_absent_devices_and_libraries_are_named_and_handed_on() -> None:
    everything = rng.GlobalRng()
    saved = everything.capture()
    there = {"cuda:6": {"bytes": np.arange(4, dtype=np.uint8)}, "cuda:7": {"bytes": np.arange(4, dtype=np.uint8)}}
    elsewhere = {**saved, "alien": {"unit": {"bytes": np.zeros(2, np.uint8)}}}
    elsewhere["torch"] = {**saved.get("torch", {}), **there}
    absent = everything.restore(elsewhere)
    assert set(absent) == ({"cuda:6", "cuda:7", "alien"} if "torch" in saved else {"torch", "alien"})
    again = everything.capture()
    assert again["alien"]["unit"] is elsewhere["alien"]["unit"]
    assert {device: again["torch"][device] for device in there} == there
    assert everything.restore(saved) == []
    assert "alien" not in everything.capture()


def test_another_global_bit_generator_is_refused() -> None:
    everything = rng.GlobalRng()
    saved = everything.capture()
    before = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(np.random.PCG64(1))  # type: ignore[attr-defined]
    try:
        with pytest.raises(MismatchError, match=r"numpy\.random"):
            everything.restore(saved)
        np.random.randn()
        other = everything.capture()
        expected = draw_global()
        everything.restore(other)
        assert draw_global() == expected
    finally:
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]


# -- courses -----------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), normals=st.integers(0, 3), inside=st.integers(0, 4))
def test_a_course_leaves_no_trace(seed: int, normals: int, inside: int) -> None:
    seed_global(seed)
    for _ in range(normals):  # an odd count leaves half a pair
        np.random.randn(), random.gauss(0, 1)
    state = np.random.get_state(legacy=False)
    python = random.getstate()
    course = rng.Course()
    for _ in range(2):
        with course:
            rng.seed_all(5)
            first = [draw_global() for _ in range(inside)]
        with course:
            rng.seed_all(5)
            assert [draw_global() for _ in range(inside)] == first
    assert random.getstate() == python
    np.testing.assert_equal(np.random.get_state(legacy=False), state)


def test_a_course_over_another_global_bit_generator_leaves_no_trace() -> None:
    before = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(np.random.PCG64(1))  # type: ignore[attr-defined]
    try:
        np.random.randn()
        state = np.random.get_state(legacy=False)
        with rng.Course():
            draw_global()
        assert np.random.get_state(legacy=False) == state
    finally:
        np.random.set_bit_generator(before)  # type: ignore[attr-defined]


def test_a_course_with_seeds_continues_from_block_to_block() -> None:
    def blocks(course: rng.Course, count: int) -> list[Any]:
        drawn = []
        for _ in range(count):
            with course:
                drawn.append([random.random(), np.random.rand()])
            draw_global()
        return drawn

    seeds = {"python": 3, "numpy": 4}
    together = rng.Course(seeds)
    with together:
        expected = [[random.random(), np.random.rand()] for _ in range(4)]
    seed_global(9)
    assert blocks(rng.Course(seeds), 4) == expected
    assert blocks(rng.Course({**seeds, "python": 5}), 1)[0][0] != expected[0][0]
    assert blocks(rng.Course({**seeds, "numpy": 5}), 1)[0][1] != expected[0][1]


def test_courses_nest_and_survive_exceptions() -> None:
    seed_global(1)
    expected = draw_global()
    seed_global(1)
    outer, inner = rng.Course({"python": 1, "numpy": 1}), rng.Course({"python": 2, "numpy": 2})
    with pytest.raises(ValueError, match="not in list"), outer, inner:
        draw_global().index(None)  # type: ignore[arg-type]
    assert draw_global() == expected


def test_seeds_of_libraries_differ() -> None:
    # Python's generator and NumPy's are the same algorithm: from one seed they would give one stream.
    rng.seed_all(1)
    assert random.random() != np.random.rand()


# -- finding -----------------------------------------------------------------------------------------------------------


class Slotted:
    __slots__ = ("empty", "rng")

    def __init__(self, generator: object) -> None:
        self.rng = generator


class Lists(list[Any]):
    pass


def test_generators_are_found_wherever_they_are_held() -> None:
    def make() -> np.random.Generator:
        return np.random.default_rng(0)

    enclosed = make()

    def closure() -> float:
        return enclosed.random()

    def default(generator: Any = make()) -> float:  # noqa: B008
        return generator.random()  # type: ignore[no-any-return]

    shared = make()
    holder = SimpleNamespace(
        a=shared, b=[1, {"x": (make(),)}], c=Slotted(make()), d=functools.partial(print, make(), key=make()), e=closure,
        f=default, g=SimpleNamespace(shared=shared), h=Lists([make()]), i=SimpleNamespace(walk=Slotted(make()).__init__),
    )  # fmt: skip
    holder.cycle = holder
    found = find_generators({"dataset": holder})
    assert list(found) == [
        "dataset.a",
        "dataset.b[1]['x'][0]",
        "dataset.c.rng",
        "dataset.d.args[0]",
        "dataset.d.keywords['key']",
        "dataset.e.enclosed",
        "dataset.f.__defaults__[0]",
        "dataset.h[0]",
        "dataset.i.walk.__self__.rng",
    ]
    assert found["dataset.a"] is shared
    assert found.complete
    assert find_generators({"dataset": holder}, skip=[holder.b]).keys() == found.keys() - {"dataset.b[1]['x'][0]"}


def test_global_generators_are_not_found() -> None:
    holder = SimpleNamespace(a=random.random, b=random, c=np.random, d=np.random.mtrand._rand, e=np.random.rand)  # type: ignore[attr-defined]
    assert find_generators({"dataset": holder}) == {}


def test_the_search_is_bounded_and_says_so() -> None:
    samples = SimpleNamespace(
        paths=["x"] * 100_000, pairs=[("x", 1)] * 100_000, records=[{"x": i} for i in range(50_000)],
        objects=[SimpleNamespace(x=i) for i in range(50_000)], rng=np.random.default_rng(0),
    )  # fmt: skip
    found = find_generators({"dataset": samples})
    assert list(found) == ["dataset.rng"]
    assert found.complete
    mixed = [[SimpleNamespace(), {}, []] for _ in range(3000)]
    assert find_generators({"dataset": [[*mixed, []], {}, (1, {}), SimpleNamespace(a=[[], {}, mixed])]}).complete
    different = [type(f"C{i}", (), {})() for i in range(3000)]
    assert not find_generators({"dataset": different}).complete


def test_searching_again_sees_every_change() -> None:
    holder = SimpleNamespace(one=None, many=[None], named={"x": None}, slots=Slotted(None), plain=[1, 2])
    finder = Finder({"dataset": holder})
    assert finder.find() == {}
    assert finder.find() is finder.find()
    holder.plain[0] = 5
    changes: list[Callable[[], None]] = [
        lambda: setattr(holder, "one", random.Random(0)),
        lambda: holder.many.__setitem__(0, random.Random(0)),
        lambda: holder.named.update(x=random.Random(0)),
        lambda: setattr(holder.slots, "rng", random.Random(0)),
        lambda: setattr(holder, "new", random.Random(0)),
        lambda: holder.many.append(random.Random(0)),
    ]
    for count, change in enumerate(changes, 1):
        change()
        assert len(finder.find()) == count
    holder.one = replaced = random.Random(1)
    assert finder.find()["dataset.one"] is replaced
    assert finder.find() is finder.find()
