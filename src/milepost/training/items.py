"""Items: the named parts of the state, and how each is taken and put back.

An object with ``state_dict`` and ``load_state_dict`` is changed in place; a random generator is too; everything else
is a *value*: handed in,
handed over again when it was replaced (``run.step(params=params)``), and handed out by ``run["params"]``. What is special about the
objects of a framework is asked of its module, which is loaded when such an object is given.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Mapping
from typing import Any, Protocol, cast, runtime_checkable

from milepost.core.manifest import Tensor
from milepost.errors import Mismatch, MismatchError, NotStorableError, ScriptError, UnknownItemError
from milepost.training.metrics import is_scalar
from milepost.training.rng import capture_generator, is_generator, restore_generator

RESERVED = "run"
"""The item that milepost itself keeps: progress, random state, data position, `run.vars`."""


class Loaded(Protocol):
    """A saved item, verified and in host memory, on its way back into a live object."""

    structure: Any

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By key: the path below the item."""

    def value(self) -> Any:
        """The nested value. Tensors have memory of their own, with the saved strides; those of an item that `borrows` may be views
        that are valid only until the restore ends."""


@runtime_checkable
class Item(Protocol):
    """One named part of the state."""

    name: str
    object: Any
    """The live object, or the newest value."""
    replaced: bool
    """Whether it is a value that the script hands over, rather than an object changed in place."""

    @property
    def borrows(self) -> bool:
        """Whether `restore` copies the tensors it is given, and so can do with views."""

    def capture(self) -> Any:
        """The nested value to save, with live tensors in it."""

    def trained(self, tensor: Any) -> bool:
        """Whether a tensor of the captured value is a parameter or optimizer state, rather than a buffer."""

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        """What of the saved state does not fit the live object; looked at before anything is changed."""

    def restore(self, saved: Loaded) -> None:
        """Put the saved state into the live object."""


class ItemMaker(Protocol):
    """What a framework's module offers: a special item for an object, or None."""

    def __call__(self, name: str, value: Any) -> Item | None: ...


FRAMEWORKS = {
    "torch": "milepost.torch.items",
    "keras": "milepost.keras.items",
    "tensorflow": "milepost.tensorflow.items",
    "jax": "milepost.jax.items",
    "flax": "milepost.jax.items",
    "equinox": "milepost.jax.items",
    "grain": "milepost.jax.grain",
}
"""Top-level module of an object's class or of a base of it -> module with `make_item`."""

PYTREES = {"jax": "milepost.jax.items"}
"""A framework whose values are of any class, once it is loaded -> module whose `make_value` knows them."""


def make_item(name: str, value: Any) -> Item:
    """The item for a live object. `NotStorableError` where its state can be neither taken nor handed over."""
    if not isinstance(name, str) or not name or name == RESERVED or "/" in name or "~" in name:
        raise ScriptError(
            f"{name!r} cannot be the name of an item", expected=f"a name without '/' and '~', other than {RESERVED!r}"
        )
    if type(value).__module__.startswith("milepost.") and isinstance(value, Item):
        return value  # an adapter made it
    for base in type(value).__mro__:
        module = FRAMEWORKS.get(base.__module__.partition(".")[0])
        if module is not None:
            special = cast("ItemMaker", importlib.import_module(module).make_item)(name, value)
            if special is not None:
                return special
    if is_generator(value):
        return GeneratorItem(name, value)
    if callable(getattr(value, "state_dict", None)):
        if not callable(getattr(value, "load_state_dict", None)):
            raise NotStorableError(
                f"{type(value).__name__} has state_dict but no load_state_dict", where=name, hint="give it both"
            )
        return StatefulItem(name, value)
    for framework, module in PYTREES.items():
        if framework in sys.modules:
            special = cast("ItemMaker", importlib.import_module(module).make_value)(name, value)
            if special is not None:
                return special
    return ValueItem(name, value)


class StatefulItem:
    """An object with ``state_dict()`` and ``load_state_dict()``: schedulers, scalers, metrics, one's own."""

    replaced = borrows = False

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.object = name, value

    def capture(self) -> Any:
        return self.object.state_dict()

    def trained(self, tensor: Any) -> bool:
        return True

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        return []

    def restore(self, saved: Loaded) -> None:
        try:
            self.object.load_state_dict(saved.value())
        except Exception as error:
            raise MismatchError(
                f"{type(self.object).__name__}.load_state_dict refused the saved state: {error}",
                where=self.name,
                hint="has the script changed since the checkpoint was made?",
            ) from error


class GeneratorItem:
    """A random generator object: of Python, NumPy or a framework."""

    replaced = borrows = False

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.object = name, value

    def capture(self) -> Any:
        return capture_generator(self.object)

    def trained(self, tensor: Any) -> bool:
        return False

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        return []

    def restore(self, saved: Loaded) -> None:
        restore_generator(self.object, saved.value(), self.name)


class ValueItem:
    """A value that is replaced rather than changed in place: arrays, pytrees, plain data."""

    replaced, borrows = True, False

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.object = name, value

    def hand_over(self, value: Any) -> None:
        """The script has a new value in place of the last."""
        self.object = value

    def capture(self) -> Any:
        return self.object

    def trained(self, tensor: Any) -> bool:
        return True

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        return value_mismatches(self.name, self.object, saved)

    def restore(self, saved: Loaded) -> None:
        self.object = saved.value()


def value_mismatches(name: str, live: Any, saved: Loaded) -> list[Mismatch]:
    """Compare the tensors of a saved item with those of a live nested value, path by path."""
    from milepost.core import tree
    from milepost.core.adapter import adapter_of, is_tensor

    _, leaves = tree.flatten(live, is_tensor, name)
    here = {}
    for path, leaf in leaves.items():
        adapter = adapter_of(leaf)
        assert adapter is not None
        info = adapter.describe(leaf)
        here[path] = f"{info.dtype.name} {list(info.shape)}"
    there = {
        f"{name}/{key}" if key else name: f"{tensor.dtype} {list(tensor.shape)}"
        for key, tensor in saved.tensors.items()
    }
    return compare(there, here)


def compare(saved: Mapping[str, str], here: Mapping[str, str]) -> list[Mismatch]:
    """A row for each path that is missing on one side or differs."""
    return [
        Mismatch(path, saved.get(path, "nothing"), here.get(path, "nothing"))
        for path in {**saved, **here}
        if saved.get(path) != here.get(path)
    ]


def unknown_name(name: str, items: Mapping[str, Item]) -> UnknownItemError:
    """The error for a name that is neither an item nor a metric."""
    from difflib import get_close_matches

    near = get_close_matches(str(name), items, 1)
    return UnknownItemError(
        f"{name!r} is no item of this run, and its value is no metric (a scalar)",
        expected="items " + ", ".join(items),
        hint=f"did you mean {near[0]!r}?"
        if near
        else f"name it when the run is opened: Checkpointer(..., {name}={name})",
    )


def aim(items: Mapping[str, Item], target: Mapping[str, Any], sharding: Mapping[str, Any]) -> None:
    """Tell items what the next restore is to give: see `Checkpointer.restore`.

    Raises:
        UnknownItemError: a name that is no item.
        ScriptError: an item whose object is changed in place, or whose arrays lie where they are.
    """
    wanted = {"target": target, "sharding": sharding}
    for name in {**wanted["target"], **wanted["sharding"]}:
        if name not in items:
            raise unknown_name(name, items)
        item_aim = getattr(items[name], "aim", None)
        if item_aim is None:
            kind = type(items[name].object).__name__
            raise ScriptError(
                f"{name!r} ({kind}) is restored as it is", where="run.restore", hint="name values of JAX there alone"
            )
        item_aim(**{option: given[name] for option, given in wanted.items() if name in given})


def check_handed(values: Mapping[str, Any], items: Mapping[str, Item]) -> None:
    """What ``run.step`` is given: values that replace those of items, and metrics under other names.

    Raises:
        UnknownItemError: a name that is no item, with a value that is no scalar.
        ScriptError: an item that is changed in place.
    """
    for name, value in values.items():
        item = items.get(name)
        if item is None and not is_scalar(value):
            raise unknown_name(name, items)
        if item is not None and not item.replaced:
            raise ScriptError(
                f"{name!r} is an item that is changed in place", where="run.step", hint="give the metric another name"
            )


def not_handed(names: Collection[str]) -> UnknownItemError:
    """The error for values that have gone stale."""
    all_names = sorted(names)
    return UnknownItemError(
        f"not handed over since the last save: {', '.join(all_names)}",
        where="run.step",
        hint=f"hand over what is replaced: run.step({', '.join(f'{name}={name}' for name in all_names)}); "
        "keep constants and counters in run.vars",
    )
