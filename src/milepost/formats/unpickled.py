"""From what a pickle says to paths: arrays, and plain values beside them.

Dicts, lists and tuples are levels of the path, as everywhere. An object of a class that is only named is a level too: its fields
by their names, what it was made with by number, its class as text at ``~class``. One that was made of nothing but a few plain
values (a member of an enum, say) is one value: a `Foreign`. An object that is met again is told by the path where it was met first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core import values
from milepost.core.brief import key_parts
from milepost.core.foreign import Foreign
from milepost.core.paths import Marked, below, escape
from milepost.core.source import TensorSpec
from milepost.errors import FormatError, NotStorableError
from milepost.formats import bounds
from milepost.formats.pickle_numpy import NumpyType
from milepost.formats.pickle_values import Dict, Global, Known, Leaf, Long, Set, Stored, Thing
from milepost.formats.place import Readable
from milepost.formats.source import FormatSource

MOST_VALUES = 300_000
MOST_TEXT = 64 * 1024 * 1024
"""Characters of all paths."""
MOST_LEVELS = 100
_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_FORGOTTEN = ("_metadata",)
"""Attributes of a dict that are not shown: torch's versions of modules, of which there is one for each."""


class Contents:
    """What is in a pickle, by path."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.specs: dict[str, TensorSpec] = {}
        self.plain: dict[str, Any] = {}
        self.readers: dict[str, Callable[[], npt.NDArray[Any]]] = {}
        self.stands: dict[str, Callable[[], tuple[Readable, int] | None]] = {}
        self._around: dict[int, str] = {}  # containers around the current value: id -> path
        self._met: dict[int, str] = {}  # objects: id -> where they were met first
        self._text = 0
        self._most, self._most_text = bounds.most(MOST_VALUES), bounds.most(MOST_TEXT)

    def add(self, value: Any, path: str) -> None:
        """Enter `value`, which is at `path`, and all below it.

        Raises:
            FormatError: an array that cannot be, or a level more than are followed.
            UnsafeContentError: little that stands for far too much.
        """
        kind = type(value)
        if kind in _SCALARS:
            self._plain(path, value)
        elif isinstance(value, Leaf):
            self._leaf(value, path)
        elif isinstance(value, Dict):
            self._within(value, path, lambda: self._dict(value, path))
        elif kind in (list, tuple):
            self._within(value, path, lambda: self._sequence(value, path))
        elif isinstance(value, Thing):
            self._within(value, path, lambda: self._thing(value, path))
        elif isinstance(value, Set):
            self._set(value, path)
        else:
            self._plain(path, as_plain(value, path))

    def _plain(self, path: str, value: Any) -> None:
        self._count(path)
        self.plain[path or "value"] = value

    def _count(self, path: str) -> None:
        self._text += len(path)
        if len(self.specs) + len(self.plain) >= self._most or self._text > self._most_text:
            message = "the file has more values than any checkpoint, or little in it is said to be at very many places"
            raise bounds.too_much(message, self.where, bound=MOST_VALUES)

    def _within(self, value: Any, path: str, enter: Callable[[], None]) -> None:
        earlier = self._around.get(id(value)) if not isinstance(value, Thing) else self._met.get(id(value))
        if earlier is not None:
            self._plain(path, Foreign("python.same", earlier, "the same object is at that path"))
            return
        if len(self._around) >= MOST_LEVELS:
            raise FormatError(
                f"values are nested more than {MOST_LEVELS} levels deep", where=self.where, found=path[:200]
            )
        self._around[id(value)] = path
        enter()
        del self._around[id(value)]

    def _leaf(self, value: Leaf, path: str) -> None:
        for mark, part in value.parts(path or "tensor", self.where):
            at = (path or "tensor") + (f"~{mark}" if mark else "")
            if isinstance(part, Stored):
                self._count(at)
                self.specs[at] = part.spec
                self.readers[at] = part.read
                self.stands[at] = part.stands
            else:
                self.add(part, at)
        attributes = getattr(value, "attributes", None)
        if attributes is not None:
            self._attributes(attributes, path)

    def _sequence(self, items: Iterable[Any], path: str) -> None:
        under, count = below(path), 0
        for item in items:
            self.add(item, f"{under}{count}")
            count += 1
        if not count:
            self._plain(path, [] if type(items) is list else ())

    def _dict(self, value: Dict, path: str) -> None:
        entries = self._entries(value, path)
        for part, item in entries.items():
            self.add(item, part)
        if not entries:
            self._plain(path, {})
        if value.attributes is not None:
            self._attributes(value.attributes, path)

    def _entries(self, value: Dict, path: str) -> dict[str, Any]:
        """Path -> value; of equal keys the last counts."""
        under = below(path)
        keys = value.flat[::2]
        texts = all(type(key) is str for key in keys)
        parts = list(map(escape, keys)) if texts else key_parts([_key(key, path) for key in keys])
        self._text += sum(map(len, parts))
        self._count(path)
        return {under + part: item for part, item in zip(parts, value.flat[1::2], strict=True)}

    def _attributes(self, attributes: Dict, path: str) -> None:
        for name, item in attributes.named().items():
            if name not in _FORGOTTEN:
                self.add(item, below(path) + escape(Marked(name, "attribute")))

    def _set(self, value: Set, path: str) -> None:
        # Only what hashes differently enough: numbers can be chosen to fall together.
        if all(
            type(item) in (str, bytes, bool, type(None)) or (type(item) is int and abs(item) < 2**60)
            for item in value.items
        ):
            self._plain(path, frozenset(value.items) if value.frozen else set(value.items))
        else:
            self._within(value, path, lambda: self._sequence(value.items, path))

    def _thing(self, value: Thing, path: str) -> None:
        fields = _of_module(value.fields())
        others = [state for state in value.state if not isinstance(state, Dict) and not fields]
        if not (fields or others or value.items or value.pairs.flat) and _few(value.args):
            self._plain(path, as_plain(value, path))
            return
        self._met[id(value)] = path or "."
        under = below(path)
        self._plain(f"{under}~class", str(value.cls))
        for name, item in fields.items():
            self.add(item, under + escape(name))
        for number, item in enumerate((*value.args, *others, *value.items)):
            self.add(item, f"{under}{number}")
        for at, item in self._entries(value.pairs, path).items():
            self.add(item, at)


def _of_module(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a ``torch.nn.Module`` as one sees them: what is in its dicts of parameters, buffers and modules is its own, and
    the many dicts of hooks are left out where they are empty. Those of anything else as they are."""
    inner = [fields.get(name) for name in ("_parameters", "_buffers", "_modules")]
    if not all(isinstance(part, Dict) for part in inner):
        return fields
    own = {key: value for part in inner if isinstance(part, Dict) for key, value in part.named().items()}
    others = {
        key: value
        for key, value in fields.items()
        if not (key.startswith("_") and (value is None or isinstance(value, Dict | Set))) and key not in own
    }
    return own | others


def as_plain(value: Any, path: str = "") -> Any:
    """`value`, in which no arrays are, as one plain value.

    Raises:
        FormatError: it is none.
    """
    if type(value) in _SCALARS or isinstance(value, Foreign):
        return value
    if isinstance(value, Global):
        return Foreign("python.name", str(value))
    if isinstance(value, Thing):
        return Foreign("python.object", {"class": str(value.cls), "args": [as_plain(arg, path) for arg in value.args]})
    if isinstance(value, Long):
        return Foreign(
            f"python.{'str' if value.kind == 'str' else 'bytes'}", {"bytes": value.data.size}, "too long to be shown"
        )
    if isinstance(value, NumpyType):
        return value.plain()
    if type(value) in (tuple, list):
        return type(value)(as_plain(item, path) for item in value)
    if type(value) is bytearray:
        return bytes(value)
    if isinstance(value, Known | Dict | Set):
        raise FormatError("a value where none of its kind can be", where=path[:200], found=type(value).__name__)
    return value


def _few(args: tuple[Any, ...]) -> bool:
    """Whether `args` are few and plain."""
    parts = [part for arg in args for part in (arg if type(arg) in (tuple, list) else (arg,))]
    return len(parts) <= 16 and all(type(part) in _SCALARS or isinstance(part, Global | Foreign) for part in parts)


def _key(key: Any, path: str) -> Any:
    """A key of a dict, encoded."""
    if isinstance(key, Thing) and not _few(key.args):
        key = Global(key.cls.module, key.cls.name)
    if type(key) in (tuple, list) and not _few(key):
        raise FormatError("a key of a dict that is too long to be shown", where=path[:200])
    try:
        return values.encode(as_plain(key, path), path)
    except NotStorableError as error:
        raise FormatError("a key of a dict that cannot be shown", where=path[:200], found=error.message) from error


class PickledSource(FormatSource):
    """A source all of whose arrays have readers, as `Contents` collects them."""

    def __init__(self, where: str, contents: Contents, metadata: dict[str, Any]) -> None:
        super().__init__(where, contents.specs, contents.plain, metadata)
        self._readers, self._standing = contents.readers, contents.stands

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        return (
            np.ascontiguousarray(self._readers[path]()).reshape(spec.shape)
            if spec.dtype.numpy
            else self._readers[path]()
        )

    def _stands(self, path: str) -> tuple[Readable, int] | None:
        return self._standing[path]() if path in self._standing else None
