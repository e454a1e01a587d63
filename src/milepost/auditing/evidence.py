"""What a script keeps beside the state: its live variables and the objects behind them. A difference in there is a cause.

Only the script's own code is looked at: the frames on the stack, modules that are neither installed nor of the standard
library, objects of the classes they define, and the few kinds of framework objects that are known to carry state.
"""

from __future__ import annotations

import enum
import functools
import importlib
import os
import sys
import sysconfig
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, count, islice
from pathlib import Path
from types import CodeType, FrameType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any, Protocol, cast

import milepost
from milepost.auditing.liveness import global_names, live_names
from milepost.core.leaves import Leaf, leaves
from milepost.core.paths import escape
from milepost.training.rng import capture_generator, is_generator

MOST_FRAMES, MOST_LEAVES = 50, 2000
"""Functions on the stack that are looked at, and leaves below one variable."""
_INSTALLED = tuple({
    str(Path(path).resolve()) + "/"
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
} | {str(Path(milepost.__file__).resolve().parent) + "/"})  # fmt: skip

OBJECT = "object"
"""The kind of an object of a class of the script's own, and of a function that keeps variables."""
BUILTIN_ITERATOR, SETTING = "built-in iterator", "setting"
"""Kinds of `itertools.cycle` and the like, and of what is set for a whole library."""
FRAMEWORKS = {
    "keras": "milepost.keras.watching",
    "torch": "milepost.torch.watching",
    "tensorflow": "milepost.tensorflow.watching",
    "jax": "milepost.jax.watching",
}
"""Loaded module -> module with the members of `Framework`."""


class Framework(Protocol):
    """What an adapter knows about the objects of its framework."""

    def look_into(self, value: Any, *, is_item: bool) -> tuple[str, Mapping[str, Any]] | None:
        """What kind of object `value` is and what it holds; of an item of the run only what its state does not have. None where
        it is nothing that is known."""

    def parts(self, item: Any) -> Iterable[Any]:
        """The objects that are in the state since the item `item` is."""

    def roots(self, items: Collection[Any]) -> Iterable[tuple[str, str, Any]]:
        """Objects that a script may have no variable for: where they are, what they are called there, the object."""


_ENVIRONMENT = dict(os.environ)


@functools.lru_cache(maxsize=10_000)
def is_own(file: str) -> bool:
    """Whether `file` is the script's own code, rather than installed."""
    if not file or file.startswith("<") or _is_installed(file):
        return False
    return not _is_installed(str(Path(file).resolve()))


def _is_installed(path: str) -> bool:
    return path.startswith(_INSTALLED) or "/site-packages/" in path or "/dist-packages/" in path


def own_frames() -> Iterator[FrameType]:
    """The frames of the script's own code on this thread's stack, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(MOST_FRAMES * 10):
        if frame is None:
            return
        if is_own(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


class Evidence:
    """Looks at the script."""

    def __init__(self) -> None:
        self._items: set[int] = set()
        self._visited: set[int] = set()
        self._kinds: dict[str, str] = {}
        self._frameworks: list[Framework] = []
        self._told: set[str] = set()

    def look(self, items: Collection[Any]) -> Iterator[Leaf]:
        """Every leaf of every live variable, by a path that begins with the function or module it belongs to.

        Args:
            items: the objects that are in the state.
        """
        frameworks = self._frameworks = [*_frameworks()]
        self._visited, self._kinds = set(), {}
        self._items = {id(one) for one in items} | {id(p) for f in frameworks for one in items for p in f.parts(one)}
        for label, name, value in chain(*(one.roots(items) for one in frameworks), self._roots()):
            if not _is_boring(value):
                for leaf in islice(leaves(value, f"{label}/{escape(name)}", self._children), MOST_LEAVES):
                    if leaf.info is not None and leaf.info.draws:
                        self._kinds[leaf.path] = "generator"
                    yield leaf

    def new_kinds(self) -> dict[str, str]:
        """What the objects on the paths of the last look are, as far as it was not told before."""
        new = {path: kind for path, kind in self._kinds.items() if path not in self._told}
        self._told |= new.keys()
        return new

    def _roots(self) -> Iterator[tuple[str, str, Any]]:
        read: set[str] = set()
        modules = _own_modules()
        for module in modules:
            for value in list(vars(module).values()):
                read |= _reads(value)
        running = set()
        for frame in islice(own_frames(), MOST_FRAMES):
            live = live_names(frame)
            if frame.f_locals is frame.f_globals:
                running.add(id(frame.f_globals))
                live |= read
            for name in sorted(live & frame.f_locals.keys()):
                yield _label(frame), name, frame.f_locals[name]
        for module in modules:
            if id(vars(module)) not in running:
                for name, value in sorted(vars(module).items()):
                    if not name.startswith("__"):
                        yield module.__name__, name, value
        self._kinds["os/environ"] = OBJECT
        yield "os", "environ", {name: one for name, one in os.environ.items() if one != _ENVIRONMENT.get(name)}
        for module in modules:
            for name, value in sorted(vars(module).items()):
                if isinstance(value, type) and value.__module__ == module.__name__ and not issubclass(value, enum.Enum):
                    self._kinds[f"{module.__name__}/{name}"] = OBJECT
                    for attribute, held in sorted(vars(value).items()):
                        if not attribute.startswith("__") and not callable(held) and not hasattr(held, "__get__"):
                            yield f"{module.__name__}/{name}", attribute, held

    def _children(self, value: Any, path: str) -> Mapping[Any, Any] | None:
        """What an object holds; nothing for one that was visited before or belongs to milepost."""
        if id(value) in self._visited or isinstance(value, (ModuleType, type)):
            return {}
        self._visited.add(id(value))
        is_item = id(value) in self._items
        for framework in self._frameworks:
            found = framework.look_into(value, is_item=is_item)
            if found is not None:
                return self._of_kind(path, *found)
        cls = type(value)
        if is_item or cls.__module__.partition(".")[0] == "milepost":
            return {}
        if is_generator(value):
            return self._of_kind(path, "generator", {"state": capture_generator(value)})
        if isinstance(value, FunctionType):
            return self._of_kind(path, OBJECT, _kept_by(value)) if is_own(value.__code__.co_filename) else {}
        if isinstance(value, MethodType):
            return {"self": value.__self__}
        if isinstance(value, functools.partial):
            return {"func": value.func, "args": value.args, "keywords": value.keywords}
        if isinstance(value, threading.local):
            return self._of_kind(path, OBJECT, vars(value))
        if isinstance(value, GeneratorType):
            frame = value.gi_frame
            if frame is None or not is_own(frame.f_code.co_filename):
                return {}
            return {name: one for name, one in frame.f_locals.items() if not _is_boring(one)}
        if _is_own_class(cls):
            held = {name: one for name, one in _attributes(value).items() if not _is_boring(one)}
            return self._of_kind(path, OBJECT, held)
        if isinstance(value, Iterator):  # where it stands is seen of few
            return self._of_kind(
                path, BUILTIN_ITERATOR, {"is": repr(value) if isinstance(value, count) else cls.__name__}
            )
        return None

    def _of_kind(self, path: str, kind: str, held: Mapping[str, Any]) -> Mapping[str, Any]:
        self._kinds[path] = kind
        return held


def _frameworks() -> Iterator[Framework]:
    """Of those that the script has imported."""
    for name, home in FRAMEWORKS.items():
        if name in sys.modules:
            yield cast("Framework", importlib.import_module(home))


def _label(frame: FrameType) -> str:
    return "__main__" if frame.f_locals is frame.f_globals else f"{frame.f_code.co_qualname}()"


def _is_boring(value: Any) -> bool:
    return isinstance(value, (ModuleType, type)) or type(value).__module__ in ("typing", "__future__")


def _own_modules() -> list[ModuleType]:
    found = {}
    for one in list(sys.modules.values()):
        if id(one) in _foreign:
            continue
        file = getattr(one, "__file__", None) or ""
        if os.path.isabs(file) and is_own(file):
            found[id(vars(one))] = one
        else:
            _foreign[id(one)] = one
    return sorted(found.values(), key=lambda one: one.__name__)


_foreign: dict[int, ModuleType] = {}
"""Modules that are not the script's own: most are."""


def _reads(value: Any) -> frozenset[str]:
    """The global names that a function (or what it wraps), or the methods of a class, read."""
    if isinstance(value, functools.partial):
        return _reads(value.func)
    try:
        code: Any = getattr(value, "__code__", None)
        inner: Any = None if isinstance(value, type) else getattr(value, "__wrapped__", None)
    except Exception:  # noqa: BLE001 - an object of a library may raise anything, as jax.config does
        return frozenset()
    if inner is not None and inner is not value:
        return _reads(inner) | (global_names(code) if isinstance(code, CodeType) else frozenset())
    if isinstance(code, CodeType):
        return global_names(code)
    names: frozenset[str] = frozenset()
    if isinstance(value, type):
        for one in vars(value).values():
            inner = getattr(getattr(one, "__func__", getattr(one, "fget", one)), "__code__", None)
            if isinstance(inner, CodeType):
                names |= global_names(inner)
    return names


def _is_own_class(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    return is_own(getattr(module, "__file__", None) or "")


def _attributes(value: Any) -> dict[str, Any]:
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in found and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _kept_by(function: FunctionType) -> dict[str, Any]:
    """Attributes of a function, and the variables that it shares with the one it was made in."""
    found = {name: one for name, one in vars(function).items() if not _is_boring(one)}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            if not _is_boring(cell.cell_contents):
                found[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    return found
