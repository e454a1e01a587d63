"""What is in a value that Orbax loaded, by path, in files."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def write_down(out: Path, loaded: Any) -> None:
    """Write the bits of every array and number of `loaded` into ``OUT.npz``, by path with ``|``; their types and shapes, text and
    None into ``OUT.json``."""
    arrays, others = {}, {}
    leaves = jax.tree_util.tree_flatten_with_path(loaded, is_leaf=lambda value: value is None)[0]
    for keys, leaf in leaves:
        path = "/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", None)))) for key in keys)
        if leaf is None or isinstance(leaf, str):
            others[path] = leaf
            continue
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        others[path] = [array.dtype.name, list(array.shape)]
        arrays[path.replace("/", "|")] = array.reshape(-1).view(np.uint8)
    np.savez(f"{out}.npz", **arrays)
    Path(f"{out}.json").write_text(json.dumps(others))
