"""The way from the start of a script to the place where its checkpoint was taken, and the random state that belongs there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from milepost.training.rng import GlobalRng


class Arrival:
    """Puts random state back when a state is restored, and again when the script is where it stood when that was captured: what it
    draws on its way there does not matter.

    Args:
        rng: the global generators.
        note: where people are told.
    """

    def __init__(self, rng: GlobalRng, note: Callable[[str], None]) -> None:
        self._rng, self._note = rng, note
        self._pending: Mapping[str, Any] | None = None

    def begin(self, saved: Mapping[str, Any]) -> None:
        """The script begins with the random state `saved`; one without loops of milepost is there already."""
        self._pending = saved
        self._restore()

    @property
    def under_way(self) -> bool:
        """Whether the place is still to be reached."""
        return self._pending is not None

    def reached(self) -> None:
        """The script is there."""
        self._restore()
        self._pending = None

    def _restore(self) -> None:
        if self._pending is not None:
            absent = self._rng.restore(self._pending)
            if absent:
                self._note(f"random state of {', '.join(absent)} is kept for when they are back: they are not here")
