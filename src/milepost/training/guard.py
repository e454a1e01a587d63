"""The guard: what a framework offers so that a snapshot can be taken behind the script's back."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from milepost.training.items import Item


class Noted(Protocol):
    """How guarded tensors stood at one moment. Until it was asked, their memory is not given back."""

    @property
    def addresses(self) -> Collection[int]:
        """Where they begin."""

    def __call__(self) -> bool:
        """To be asked once: whether they still stand like that, as far as can be seen."""


class Guard(Protocol):
    """Knows tensors that change only at a moment it can hold back (an optimizer step)."""

    steps: int
    """How many such moments have come, for the run's own optimizers."""

    def moved(self) -> bool:
        """Whether an owned tensor was seen to change since the last call; may miss changes, never invents one."""

    def note(self) -> Noted:
        """Remember how the owned tensors stand: those that change at no other time."""

    def note_all(self, values: Iterable[object]) -> Noted:
        """The same for whatever tensors of the framework are among `values`."""

    def gradients(self) -> dict[str, Any]:
        """What was gathered for the next such moment: item -> number of the parameter -> gradient."""

    def put_gradients(self, saved: Mapping[str, Any]) -> None:
        """Put back what `gradients` gave."""

    def close(self) -> None:
        """Stop guarding."""


GUARDS = {"torch": "milepost.torch.overlap"}


def make_guard(items: Sequence[Item], wait: Callable[[], None]) -> Guard | None:
    """The guard of a framework that is loaded and has something to guard among `items`; it calls `wait` before each change."""
    for framework, module in GUARDS.items():
        if framework in sys.modules:
            guard: Guard | None = importlib.import_module(module).make_guard(items, wait)
            if guard is not None:
                return guard
    return None
