"""JAX: pytrees of arrays, Flax, Optax, Equinox, the position of Grain's loaders."""
