"""Load what milepost exported in every way that Orbax has, as its users would, and write down what came."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import orbax.checkpoint.experimental.v1 as v1
from orbax_leaves import write_down

made = Path(sys.argv[1])
params = {"dense": {"kernel": jnp.zeros((4, 3), jnp.bfloat16), "bias": jnp.zeros(3, jnp.float32)}}
target = jax.eval_shape(
    lambda: {"params": params, "opt_state": optax.adamw(1e-3).init(params), "key": jax.random.key(0)}
)


def opened(name: str) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(made / name, options=ocp.CheckpointManagerOptions(best_fn=lambda found: found["loss"]))


def down(name: str, loaded: Any, like: Any = None) -> None:
    if like is not None:
        assert jax.tree.structure(loaded) == jax.tree.structure(like), name
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded)), name
    write_down(made / f"loaded-{name}", loaded)


with opened("manager") as manager:
    down("manager", manager.restore(6))
    told = {
        "steps": list(manager.all_steps()), "best": manager.best_step(), "latest": manager.latest_step(),
        "metrics": manager.metrics(4), "about": manager.metadata(6).custom_metadata["milepost"],
    }  # fmt: skip
    (made / "told.json").write_text(json.dumps(told))
with opened("jax") as manager:
    down("manager-target", manager.restore(6, args=ocp.args.StandardRestore(target)), target)
with opened("items") as manager:
    trees = {name: target[name] for name in ("params", "opt_state")}
    wanted = {name: ocp.args.StandardRestore(one) for name, one in trees.items()}
    down("items-target", dict(manager.restore(6, args=ocp.args.Composite(**wanted))), trees)
down("tree-target", ocp.StandardCheckpointer().restore(made / "jax-tree", target), target)
down("step-v1", v1.load(made / "manager" / "6"))
down("step-v1-target", v1.load(made / "jax" / "6", target), target)
down("v1", v1.training.Checkpointer(made / "v1").load(6))
down("again", ocp.CheckpointManager(made / "again").restore(10))
down("weights", ocp.StandardCheckpointer().restore(made / "weights"))
key = ocp.CheckpointManager(made / "again").restore(10)["key"]
assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
assert np.array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(3)))
