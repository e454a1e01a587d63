"""Classes by name, among those that are loaded already: nothing is imported or executed because a file names it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import cast


def name_of(kind: type) -> str:
    """``"module:QualName"``; the names of nested classes have dots."""
    return f"{kind.__module__}:{kind.__qualname__}"


def find(name: str) -> type | None:
    """The class called `name` (as `name_of` writes it) if it is loaded, else None.

    Only dictionaries are looked into. An attribute lookup could run code: a module's ``__getattr__`` that imports
    lazily, a descriptor, a metaclass.
    """
    module_name, _, qualname = name.partition(":")
    module = sys.modules.get(module_name)
    if not issubclass(type(module), ModuleType):
        return None
    names: Mapping[str, object] = ModuleType.__getattribute__(cast("ModuleType", module), "__dict__")
    found: object = None
    for part in qualname.split("."):
        found = names.get(part)
        if not issubclass(type(found), type):
            return None
        names = type.__getattribute__(cast("type", found), "__dict__")
    return cast("type", found)


def attribute(kind: type, name: str) -> object:
    """What class `kind` or a base of it has under `name`, not bound to anything; None if nothing. Runs no code."""
    for base in type.__getattribute__(kind, "__mro__"):
        names = type.__getattribute__(base, "__dict__")
        if name in names:
            return names[name]
    return None
