"""What `milepost audit` has to know about JAX: which objects carry state."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from milepost.core.leaves import PLAIN
from milepost.jax import pytrees

OBJECT = "object"
"""As in `milepost.auditing.evidence`."""


def look_into(value: Any, *, is_item: bool) -> tuple[str, Mapping[str, Any]] | None:
    """See `milepost.auditing.evidence.Framework`."""
    home = type(value).__module__.partition(".")[0]
    if home == "grain" and callable(getattr(value, "get_state", None)):
        return "iterator", {} if is_item else {"position": value.get_state()}
    if "flax.nnx" in sys.modules:
        found = _of_nnx(value, is_item=is_item)
        if found is not None:
            return found
    if home in ("jax", "flax", "equinox", "optax", "chex") and pytrees.is_node(value) and not is_item:
        inside: Any = pytrees.unfold(value)
        return OBJECT, inside if isinstance(inside, dict) else {str(at): one for at, one in enumerate(inside)}
    return None


def _of_nnx(value: Any, *, is_item: bool) -> tuple[str, Mapping[str, Any]] | None:
    """The variables of an object of NNX, and its plain attributes, which are in no state."""
    from flax import nnx

    if isinstance(value, nnx.Variable):
        return "module", {"value": value.get_value()}
    if not isinstance(value, nnx.Pytree):
        return None
    if is_item:
        return "nnx", _plain(value)
    kinds = {nnx.Optimizer: "optimizer", nnx.Metric: "metric", nnx.Rngs: "generator", nnx.RngStream: "generator"}
    kind = next((kind for cls, kind in kinds.items() if isinstance(value, cls)), "module")
    return kind, {"state": pytrees.unfold(nnx.state(value)), **_plain(value)}


def _plain(value: Any) -> dict[str, Any]:
    """The plain attributes of an object and of those within it that are of the script's own classes."""
    from flax import nnx

    return {
        "/".join(map(str, path)): one
        for path, one in nnx.iter_graph(value)
        if isinstance(one, PLAIN) and not isinstance(one, type) and not any(str(part).startswith("_") for part in path)
    }


def parts(item: Any) -> Iterable[Any]:
    """The variables of an object of NNX: a script may hold one of them by itself."""
    if "flax.nnx" not in sys.modules:
        return []
    from flax import nnx

    if not isinstance(item, nnx.Pytree):
        return []
    return [one for _, one in nnx.iter_graph(item) if isinstance(one, (nnx.Variable, nnx.Pytree))]


def roots(items: Iterable[Any]) -> Iterable[tuple[str, str, Any]]:
    """None: what JAX holds is reached from the script's variables."""
    return ()
