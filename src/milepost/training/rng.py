"""Random generators: their states as plain values, seeding them, and courses of them beside the program's own.

A *library* (Python, NumPy, a framework) has global generators and kinds of generator objects. What milepost knows
about a library is in a module of its own; that of a framework is loaded once the script has imported the framework,
never before.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, cast

import xxhash

from milepost.errors import Mismatch, MismatchError

State = dict[str, object]
"""The state of one generator: plain values and numpy arrays."""


class Kind(NamedTuple):
    """What can be done with one kind of generator object; its native state is what its library hands out."""

    name: str
    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]
    seed: Callable[[Any, int], None]
    pack: Callable[[Any], State]
    unpack: Callable[[State], Any]


class LibraryCourse(Protocol):
    """One library's part of a `Course`."""

    def enter(self) -> None:
        """Set the program's states aside and go on from where `leave` was."""

    def leave(self) -> None:
        """Put the program's states back."""


class Library(Protocol):
    """The global generators of one library, and its kinds of generator objects."""

    @property
    def name(self) -> str:
        """What the library is called in a saved state."""

    def capture(self) -> dict[str, State]:
        """The state of every global generator, by device."""

    def restore(self, saved: Mapping[str, State]) -> list[str]:
        """Put back what `capture` gave; returns the devices that are not here."""

    def seed(self, seed: int) -> None:
        """Seed the host's global generator from 128 bits; generators of accelerators stay as they are."""

    def draw(self) -> int:
        """Draw 63 bits from the host's global generator."""

    def course(self, *, keep: bool) -> LibraryCourse:
        """A new course of the host's global generator; with `keep` it continues from block to block."""

    def kind(self, cls: type) -> Kind | None:
        """What to do with generators of class `cls`; None where it is no generator of this library."""

    def global_generators(self) -> list[object]:
        """The generator objects behind the library's global functions."""


def derive(*parts: object) -> int:
    """128 well mixed bits from `parts` (numbers and names), the same on every machine."""
    return xxhash.xxh3_128_intdigest("\0".join(map(str, parts)).encode())


_MODULES = {
    "numpy": "milepost.training.rng_host",
    "torch": "milepost.torch.rng",
    "tensorflow": "milepost.tensorflow.rng",
    "keras": "milepost.keras.rng",
}
"""What a script has to have imported → the module whose `LIBRARIES` are then of interest. milepost itself imports
NumPy.
"""


@functools.cache
def _load(module: str) -> tuple[Library, ...]:
    return cast("tuple[Library, ...]", importlib.import_module(module).LIBRARIES)


def libraries() -> list[Library]:
    """Python, NumPy, and every framework milepost knows that the script has imported."""
    return [library for needed, module in _MODULES.items() if needed in sys.modules for library in _load(module)]


def seed_all(seed: int) -> None:
    """Seed the host's global generators of all libraries, each from a seed of its own derived from `seed`."""
    for library in libraries():
        library.seed(derive(seed, library.name))


def draw_all() -> dict[str, int]:
    """A number from each library's global generator: seeds for a `Course` that follow from the program's own."""
    return {library.name: library.draw() for library in libraries()}


class GlobalRng:
    """The states of all global generators of this process.

    A state captured with more devices than are here restores all the same: what belongs to the absent ones is kept and
    handed on by the next `capture`, so that a later restart with those devices continues exactly.

    Example:
        >>> import random
        >>> rng = GlobalRng()
        >>> saved = rng.capture()
        >>> first = random.random()
        >>> rng.restore(saved)
        []
        >>> random.random() == first
        True

    """

    def __init__(self) -> None:
        self._absent: dict[str, dict[str, State]] = {}

    def capture(self) -> dict[str, dict[str, State]]:
        """Library → device → state."""
        states = {library.name: library.capture() for library in libraries()}
        for name, devices in self._absent.items():
            states[name] = {**states.get(name, {}), **devices}
        return states

    def restore(self, saved: Mapping[str, Mapping[str, State]]) -> list[str]:
        """Put back what `capture` gave; returns the names of absent devices (``cuda:1``) and libraries (``torch``).

        Raises:
            MismatchError: NumPy's global generator is of another kind than when the state was saved.

        """
        self._absent = {}
        here = {library.name: library for library in libraries()}
        missing: list[str] = []
        for name, devices in saved.items():
            absent = here[name].restore(devices) if name in here else list(devices)
            if absent:
                self._absent[name] = {device: devices[device] for device in absent}
                missing += absent if name in here else [name]
        return missing


class Course:
    """A course of the host's global generators that runs beside the program's own.

    Draws inside a ``with`` block leave the program's generators as they were. With `seeds` (library → seed) the first
    block starts from them, and each block continues where the last one stopped; without, a block has to seed what it
    uses.

    Example:
        >>> import random
        >>> random.seed(1); expected = random.random(); random.seed(1)
        >>> with Course({"python": 5}):
        ...     _ = random.random()
        >>> random.random() == expected
        True

    """

    def __init__(self, seeds: Mapping[str, int] | None = None) -> None:
        self._seeds = seeds
        self._libraries = libraries()
        self._parts = [library.course(keep=seeds is not None) for library in self._libraries]

    def __enter__(self) -> Course:
        for part in self._parts:
            part.enter()
        if self._seeds is not None:
            for library in self._libraries:
                library.seed(self._seeds.get(library.name, 0))
            self._seeds = None
        return self

    def __exit__(self, *_: object) -> None:
        for part in reversed(self._parts):
            part.leave()


# -- generator objects that a script made itself ----------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _kind_of(cls: Any) -> Kind | None:
    return next((kind for library in libraries() if (kind := library.kind(cls))), None)


def is_generator(value: object) -> bool:
    """Whether `value` is a random.Random, a numpy Generator or RandomState, or a framework's generator."""
    return is_generator_class(type(value))


def is_generator_class(cls: type) -> bool:
    """Whether objects of class `cls` are random generators."""
    return _kind_of(cls) is not None


def _kind(generator: object) -> Kind:
    cls: Any = type(generator)
    kind = _kind_of(cls)
    if kind is None:
        raise TypeError(f"{cls.__qualname__} is no random generator")
    return kind


def capture_generator(generator: object) -> State:
    """The state of `generator` as plain values."""
    kind = _kind(generator)
    return {"kind": kind.name, "state": kind.pack(kind.read(generator))}


def restore_generator(generator: object, saved: Mapping[str, object], where: str = "generator") -> None:
    """Put back what `capture_generator` gave.

    Raises:
        MismatchError: `generator` is of another kind than the one that was saved; `where` names it.

    """
    kind = _kind(generator)
    state = cast("dict[str, Any]", saved["state"])
    if saved["kind"] == kind.name:
        try:
            kind.write(generator, kind.unpack(state))
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            here = str(error)
            cause = error
        else:
            return
    else:
        here, cause = kind.name, None
    raise MismatchError(
        "the saved state is that of another kind of random generator",
        rows=(Mismatch(where, f"{saved['kind']} {state.get('bit_generator', '')}".strip(), here),),
        hint="make the generator as the script did when the state was saved",
    ) from cause


def read_generator(generator: object) -> object:
    """The native state of `generator`: cheap, but nothing to store."""
    return _kind(generator).read(generator)


def write_generator(generator: object, native: object) -> None:
    """Put back what `read_generator` gave."""
    _kind(generator).write(generator, native)


def seed_generator(generator: object, seed: int) -> None:
    """Start `generator` afresh from 128 bits."""
    _kind(generator).seed(generator, seed)
