"""What feeds compare between the pass that was saved and the one that continues it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from milepost.errors import LoaderError
from milepost.training.rng import capture_generator, restore_generator

Position = dict[str, object]
"""Where a pass is: plain values and numpy arrays."""


def check(saved: Mapping[str, object], facts: Mapping[str, object], where: str, hint: str | None = None) -> None:
    """Compare what was said about the loader when `saved` was saved with the `facts` here.

    Raises:
        LoaderError: they differ; it lists how.

    """
    before = cast("Mapping[str, object]", saved.get("facts", {}))
    differing = [name for name in {**before, **facts} if before.get(name) != facts.get(name)]
    if differing:
        raise LoaderError(
            "the data is not what it was when this position was saved",
            where=where,
            expected=", ".join(f"{name} {before.get(name)}" for name in differing),
            found=", ".join(f"{name} {facts.get(name)}" for name in differing),
            hint=hint or "make the loader as it was, or start a new run from this checkpoint's weights",
        )


def length_of(loader: object) -> int | None:
    """How many batches there are, where `loader` says so."""
    try:
        return len(cast("Any", loader))
    except (TypeError, NotImplementedError, AttributeError):
        return None


def capture_generators(generators: Mapping[str, object]) -> dict[str, object]:
    """The states of `generators`, by path."""
    return {path: capture_generator(generator) for path, generator in generators.items()}


def restore_generators(generators: Mapping[str, object], states: object) -> None:
    """Put back the `states` of those `generators` that are among them."""
    for path, state in cast("Mapping[str, Mapping[str, object]]", states).items():
        if path in generators:
            restore_generator(generators[path], state, path)
