"""JAX: pytrees of arrays, Flax, Optax, Equinox, the position of Grain's loaders.

What a script gives to `milepost.Checkpointer` needs nothing of this; `restore` is for scripts that continue no run.
"""

from __future__ import annotations

from milepost.jax.restoring import restore

__all__ = ["restore"]
