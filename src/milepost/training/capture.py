"""Capture: from live objects to structures with plain values copied, and the live tensors to stage."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable
from typing import Any

from milepost.core import tree
from milepost.core.adapter import LeafInfo, TensorAdapter, adapter_of, is_tensor
from milepost.core.encoder import Tensors
from milepost.errors import NotStorableError
from milepost.pipeline.images import Leaf
from milepost.training.items import RESERVED, Item


class Capturer:
    """Captures the state of one run, and remembers what its tensors are: most are the same objects from save to save."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[weakref.ref[Any], TensorAdapter, LeafInfo, bool]] = {}
        self._names: dict[str, Tensors] = {}

    def items(
        self, items: Iterable[Item], owned: Collection[int], *, hold: bool = False
    ) -> tuple[dict[str, Any], dict[str, list[Leaf]]]:
        """The structure and live tensors of each item.

        Args:
            items: what to capture.
            owned: addresses of tensors that may be staged later, since something holds back whatever changes them.
            hold: whether immutable tensors may be staged later, except those of items that are `donated`.

        Raises:
            NotStorableError: a value that cannot be stored plainly, named by its path. Nothing was changed.
        """
        structures: dict[str, Any] = {}
        leaves: dict[str, list[Leaf]] = {}
        for item in items:
            flat = getattr(item, "flat", None)
            if flat is not None:
                structures[item.name], found = flat()
            else:
                structures[item.name], found = tree.flatten(item.capture(), is_tensor, item.name, self._names)
            if found:
                held = hold and not getattr(item, "donated", False)
                leaves[item.name] = [self._leaf(path, value, item, owned, held) for path, value in found.items()]
        return structures, leaves

    def own(self, value: dict[str, Any]) -> tuple[Any, list[Leaf]]:
        """The same for the state that milepost itself keeps."""
        structure, found = tree.flatten(value, is_tensor, RESERVED, self._names)
        return structure, [self._leaf(path, leaf, None, (), False) for path, leaf in found.items()]

    def _leaf(self, path: str, value: Any, item: Item | None, owned: Collection[int], held: bool) -> Leaf:
        known = self._known.get(path)
        if known is not None and known[0]() is value:
            _, adapter, info, trained = known
            if adapter.same(value, info):
                return Leaf(path, value, adapter, info, trained, info.address in owned or (held and info.immutable))
        found = adapter_of(value)
        assert found is not None
        adapter = found
        try:
            info = adapter.describe(value)
        except NotStorableError as error:
            raise NotStorableError(error.message, where=path, hint=error.hint) from None
        trained = item is not None and info.dtype.floating and item.trained(value)
        if not info.immutable:  # those are other objects each time
            self._known[path] = (weakref.ref(value), adapter, info, trained)
        return Leaf(path, value, adapter, info, trained, info.address in owned or (held and info.immutable))
