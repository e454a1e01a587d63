"""The state of an object that data is read from: its random generators, and what a `keras.utils.PyDataset` changes in itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from milepost.core import tree
from milepost.core.adapter import is_tensor
from milepost.core.leaves import fingerprint
from milepost.errors import NotStorableError
from milepost.training.feeds_checks import capture_generators, restore_generators
from milepost.training.generators import Finder


def storable(value: Any) -> bool:
    """Whether `value` is plain data and arrays throughout."""
    try:
        tree.flatten(value, is_tensor)
    except NotStorableError:
        return False
    return True


class Changes:
    """What plain attributes of an object have changed since it was looked at first."""

    def __init__(self, thing: Any, but: tuple[str, ...] = ()) -> None:
        self._thing, self._but = thing, but
        self._first = {name: fingerprint(value) for name, value in self._attributes().items()}

    def _attributes(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self._thing).items() if name not in self._but}

    def all(self) -> dict[str, Any]:
        """Attributes that are other than they were, whether or not they can be stored."""
        return {name: one for name, one in self._attributes().items() if self._first.get(name) != fingerprint(one)}

    def capture(self) -> dict[str, Any]:
        """Those that can be stored."""
        return {name: value for name, value in self.all().items() if storable(value)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Put back what `capture` gave."""
        for name, value in saved.items():
            setattr(self._thing, name, value)


class Source:
    """The object that data is read from, or None."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing
        self._finder = Finder({"data": thing} if thing is not None else {})
        self._changes = Changes(thing) if isinstance(thing, keras.utils.PyDataset) else None
        self._own = callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))

    def capture(self) -> dict[str, Any]:
        """Its state: what its own ``state_dict`` says, else what was seen to change."""
        if self._own:
            return {"own": self._thing.state_dict()}
        return {
            "generators": capture_generators(self._finder.find()),
            "changes": self._changes.capture() if self._changes is not None else {},
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Put back what `capture` gave; nothing where that is empty."""
        if "own" in saved:
            self._thing.load_state_dict(saved["own"])
        if "generators" in saved:
            if self._changes is not None:
                self._changes.restore(saved["changes"])
            restore_generators(self._finder.find(), saved["generators"])
