"""The random generators of Python and NumPy."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
from numpy.random import MT19937, BitGenerator, Generator, RandomState

from milepost.errors import Mismatch, MismatchError
from milepost.training.rng import Kind, State

_GLOBAL = cast("Any", np.random)  # numpy's stubs leave out get_bit_generator and set_bit_generator


def _words(seed: int) -> list[int]:
    return [seed >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)]


# -- Python ------------------------------------------------------------------------------------------------------------


def _pack_python(native: tuple[int, tuple[int, ...], float | None]) -> State:
    version, words, gauss = native
    return {"version": version, "words": np.array(words, np.uint32), "gauss": gauss}


def _unpack_python(state: State) -> tuple[object, tuple[int, ...], object]:
    return state["version"], tuple(cast("np.ndarray[Any, Any]", state["words"]).tolist()), state["gauss"]


_RANDOM = Kind("random.Random", random.Random.getstate, random.Random.setstate,
               lambda generator, seed: generator.seed(seed), _pack_python, _unpack_python)  # fmt: skip


class _PythonCourse:
    def __init__(self, keep: bool) -> None:
        self._keep, self._own = keep, None if not keep else random.getstate()

    def enter(self) -> None:
        self._program = random.getstate()
        if self._own is not None:
            random.setstate(self._own)

    def leave(self) -> None:
        if self._keep:
            self._own = random.getstate()
        random.setstate(self._program)


class _Python:
    name = "python"

    def capture(self) -> dict[str, State]:
        return {"global": _pack_python(random.getstate())}

    def restore(self, saved: Mapping[str, State]) -> list[str]:
        random.setstate(cast("tuple[Any, ...]", _unpack_python(saved["global"])))
        return []

    def seed(self, seed: int) -> None:
        random.seed(seed)

    def draw(self) -> int:
        return random.getrandbits(63)

    def course(self, *, keep: bool) -> _PythonCourse:
        return _PythonCourse(keep)

    def kind(self, cls: type) -> Kind | None:
        # SystemRandom asks the operating system: it has no state.
        return _RANDOM if issubclass(cls, random.Random) and not issubclass(cls, random.SystemRandom) else None

    def global_generators(self) -> list[object]:
        return [cast("Any", random.random).__self__]


# -- NumPy -------------------------------------------------------------------------------------------------------------


def _seed_bits(bits: BitGenerator, seed: int) -> None:
    bits.state = cast("Callable[[int], BitGenerator]", type(bits))(seed).state


def _set_bits(bits: BitGenerator, state: Mapping[str, Any]) -> None:
    bits.state = state


def _seed_random_state(generator: RandomState, seed: int) -> None:
    try:
        generator.seed(_words(seed))
    except TypeError:  # only MT19937 can be seeded in place
        name = cast("dict[str, str]", generator.get_state(legacy=False))["bit_generator"]
        generator.set_state({**getattr(np.random, name)(seed).state, "has_gauss": 0, "gauss": 0.0})


_NUMPY = {
    Generator: Kind("numpy.Generator", lambda generator: generator.bit_generator.state,
                    lambda generator, state: _set_bits(generator.bit_generator, state),
                    lambda generator, seed: _seed_bits(generator.bit_generator, seed), dict, dict),
    RandomState: Kind("numpy.RandomState", lambda generator: generator.get_state(legacy=False),
                      lambda generator, state: generator.set_state(state), _seed_random_state, dict, dict),
    BitGenerator: Kind("numpy.BitGenerator", lambda bits: bits.state, _set_bits, _seed_bits, dict, dict),
}  # fmt: skip


class _NumpyCourse:
    """Exchanges the bit generator behind NumPy's global functions: 0.2 us; to read and write its state takes 27 + 28.

    An exchange drops the second normal number of a pair that was drawn (`has_gauss`), which NumPy shows only with the
    whole state. So one more normal number is asked for: if the generator's memory did not move, that was the leftover.
    """

    _MT19937_BYTES = 624 * 4 + 4  # mt19937_state of numpy/random/src/mt19937: uint32 key[624]; int pos

    def __init__(self) -> None:
        self._own: BitGenerator = MT19937()

    def enter(self) -> None:
        self._program = _GLOBAL.get_bit_generator()
        self._leftover = self._take_leftover()
        _GLOBAL.set_bit_generator(self._own)

    def leave(self) -> None:
        _GLOBAL.set_bit_generator(self._program)
        if self._leftover is not None:
            np.random.set_state({**self._program.state, "has_gauss": 1, "gauss": self._leftover})

    def _take_leftover(self) -> float | None:
        if type(self._program) is not MT19937:  # others are small, and cheap to read
            state = np.random.get_state(legacy=False)
            return state["gauss"] if state["has_gauss"] else None
        address = self._program.ctypes.state_address
        memory = ctypes.string_at(address, self._MT19937_BYTES)
        number = np.random.standard_normal()
        if ctypes.string_at(address, self._MT19937_BYTES) == memory:
            return number
        ctypes.memmove(address, memory, self._MT19937_BYTES)
        return None


class _Numpy:
    name = "numpy"

    def capture(self) -> dict[str, State]:
        return {"global": cast("State", np.random.get_state(legacy=False))}

    def restore(self, saved: Mapping[str, State]) -> list[str]:
        state = saved["global"]
        here = type(_GLOBAL.get_bit_generator()).__name__
        if state["bit_generator"] != here:
            raise MismatchError(
                "the global generator of NumPy is of another kind",
                rows=(Mismatch("numpy.random", str(state["bit_generator"]), here),),
                hint="call np.random.set_bit_generator as the script did when the state was saved",
            )
        np.random.set_state(state)
        return []

    def seed(self, seed: int) -> None:
        np.random.seed(_words(seed))

    def draw(self) -> int:
        return int(np.random.randint(1 << 63, dtype=np.uint64))

    def course(self, *, keep: bool) -> _NumpyCourse:
        return _NumpyCourse()  # its bit generator lives as long as the course, so it continues by itself

    def kind(self, cls: type) -> Kind | None:
        return next((kind for base, kind in _NUMPY.items() if issubclass(cls, base)), None)

    def global_generators(self) -> list[object]:
        return [cast("Any", np.random.random).__self__]


LIBRARIES = (_Python(), _Numpy())
