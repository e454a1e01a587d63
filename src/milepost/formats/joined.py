"""Several files that are one checkpoint, as one source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt

from milepost.core.paths import below, escape
from milepost.core.source import TensorSource, TensorSpec
from milepost.errors import FormatError
from milepost.formats import bounds
from milepost.formats.place import File
from milepost.formats.plain_json import read_json_of
from milepost.formats.source import FormatSource

MOST_VALUES = 300_000
MOST_LEVELS = 50
"""Of the values in a file of JSON."""


class Joined(FormatSource):
    """Sources one after the other.

    Args:
        where: the place, for people.
        metadata: see `FormatSource`.
    """

    def __init__(self, where: str, metadata: dict[str, Any]) -> None:
        self._most = bounds.most(MOST_VALUES)
        self._origins: dict[str, tuple[TensorSource, str]] = {}
        self._told: dict[str, Any] = {}
        self._kinds: dict[str, TensorSpec] = {}
        super().__init__(where, self._kinds, self._told, metadata)

    def add(self, source: TensorSource, under: str = "", wanted: Callable[[str], bool] = lambda path: True) -> None:
        """Enter what is in `source` below the path `under`; without one, only the paths that are `wanted`.

        Raises:
            FormatError: a tensor is there already.
            UnsafeContentError: there are more values than any checkpoint has.
        """
        for path, spec in source.specs.items():
            if not wanted(path):
                continue
            if (at := below(under) + path) in self._kinds:
                raise FormatError(f"tensor {path!r} is in two files", where=source.where)
            self._kinds[at] = spec
            self._origins[at] = source, path
        for path, value in source.plain.items():
            if wanted(path):
                self.tell(below(under) + path, value)
        self._bound()

    def _bound(self) -> None:
        if len(self._kinds) + len(self._told) > self._most:
            message = "there are more values in the files than any checkpoint has"
            raise bounds.too_much(message, self.where, bound=MOST_VALUES)

    def tell(self, path: str, value: Any) -> None:
        """Enter a plain value. What several files say of themselves is kept once."""
        self._told.setdefault(path, value)
        self._bound()

    def tell_all(self, path: str, value: Any) -> None:
        """Enter what is in `value`, out of a file of JSON, by path.

        Raises:
            FormatError: it is nested too deep.
        """
        waiting = [(path, value, 0)]
        while waiting:
            at, node, level = waiting.pop()
            if level > MOST_LEVELS:
                raise FormatError(
                    f"values are nested more than {MOST_LEVELS} levels deep", where=self.where, found=path
                )
            if isinstance(node, dict) and node:
                inner = [(below(at) + escape(key), item, level + 1) for key, item in node.items()]
            elif isinstance(node, list) and node:
                inner = [(f"{below(at)}{index}", item, level + 1) for index, item in enumerate(node)]
            else:
                self.tell(at, node)
                continue
            waiting += reversed(inner)

    def _read(self, path: str, spec: TensorSpec) -> npt.NDArray[Any]:
        source, inner = self._origins[path]
        return source[inner]

    def blocks(self, path: str) -> Iterator[npt.NDArray[Any]]:
        found = self._origins.get(path)
        return super().blocks(path) if found is None else found[0].blocks(found[1])


def read_object(file: File) -> dict[str, Any]:
    """The object that a file of JSON consists of.

    Raises:
        FormatError: it is none.
        UnsafeContentError: it is far too large.
    """
    found = read_json_of(file)
    if not isinstance(found, dict):
        raise FormatError("this is not JSON of the expected form", where=file.where, expected="an object")
    return found
