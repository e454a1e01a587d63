"""Folders of steps as Orbax keeps them, in its old interface and the new one, and what Orbax itself loads from them (``*.npz``,
by path)."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import orbax.checkpoint.experimental.v1 as v1
from flax import nnx
from orbax_leaves import write_down

out = Path(sys.argv[1]).absolute()


def together(rank: int, port: str) -> None:
    """One of two processes that save steps of which each has a half."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    whole = np.arange(24, dtype=np.float32).reshape(8, 3)
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["loss"])
    with ocp.CheckpointManager(out / "processes", options=options) as manager:
        for step in (1, 2):
            array = jax.make_array_from_callback(whole.shape, split, lambda index, step=step: whole[index] * step)
            args = ocp.args.Composite(params=ocp.args.StandardSave({"w": array, "step": step}))
            manager.save(step, args=args, metrics={"loss": 1 / step})
    with v1.training.Checkpointer(out / "processes-v1") as checkpointer:
        checkpointer.save(1, {"w": array}, metrics={"loss": 0.5})


if len(sys.argv) > 2:
    together(int(sys.argv[2]), sys.argv[3])
    sys.exit()


class Pair(NamedTuple):
    a: Any
    b: Any


rng = np.random.default_rng(0)
names = """bool int2 int4 int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128 bfloat16
float4_e2m1fn float8_e3m4 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"""
kinds = {name: rng.integers(0, 2, (3, 4)).astype(getattr(ml_dtypes, name, name)) for name in names.split()}
params = {"dense": {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.bfloat16), "bias": jnp.zeros(3)}}
model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.BatchNorm(8, rngs=nnx.Rngs(1)))
state = {
    "params": params, "opt_state": optax.adamw(1e-3).init(params), "kinds": kinds, "nnx": nnx.to_pure_dict(nnx.state(model)),
    "key": jax.random.key(3), "keys": jax.random.split(jax.random.key(1, impl="rbg")), "weak": jnp.asarray(2.0) * 1,
    "nested": [(Pair(np.arange(3), None), {}), [np.array(2.5, np.float32), np.array(7, np.int8)]],
    "step": 7, "rate": 1e-3, "flag": True,
}  # fmt: skip
texts = {"note": "text", "nothing": (), "w": np.arange(2)}


def expect(name: str, loaded: Any) -> None:
    """Write down what Orbax loaded."""
    write_down(out / name, loaded)


best = {"best_fn": lambda metrics: metrics["loss"], "best_mode": "min"}
with ocp.CheckpointManager(out / "single", options=ocp.CheckpointManagerOptions(**best)) as manager:
    for step, loss in ((1, 0.5), (2, 0.25), (10, 0.75)):
        about = {"epoch": step}
        manager.save(
            step, args=ocp.args.StandardSave(state), metrics={"loss": loss, "n": {"acc": 1}}, custom_metadata=about
        )
    expect("single", manager.restore(10))
options = ocp.CheckpointManagerOptions(step_prefix="ckpt", step_format_fixed_length=8)
with ocp.CheckpointManager(out / "several", options=options) as manager:
    for step in (5, 10):
        args = {"params": ocp.args.StandardSave(params), "texts": ocp.args.PyTreeSave(texts)}
        manager.save(step, args=ocp.args.Composite(**args, notes=ocp.args.JsonSave({"a": [1, None]})))
    expect("several", dict(manager.restore(10, args=ocp.args.Composite(params=ocp.args.StandardRestore()))))
    expect("texts", manager.restore(10, args=ocp.args.Composite(texts=ocp.args.PyTreeRestore()))["texts"])
manager = ocp.CheckpointManager(out / "legacy", {name: ocp.PyTreeCheckpointer() for name in ("params", "opt_state")})
manager.save(3, {name: state[name] for name in ("params", "opt_state")})
expect("legacy", dict(manager.restore(3)))
manager.close()
for about in (out / "legacy").rglob("_CHECKPOINT_METADATA"):
    about.unlink()  # as Orbax wrote them before it had any
shutil.copytree(out / "single", out / "cut-short")
(out / "cut-short" / "10").rename(out / "cut-short" / "10.orbax-checkpoint-tmp")
with v1.training.Checkpointer(out / "new") as checkpointer:
    for step in (1, 2):
        checkpointer.save(step, state | {"note": "text"}, metrics={"loss": float("nan") if step == 1 else 0.5})
    expect("new", checkpointer.load(2))
with v1.training.Checkpointer(out / "new-several") as checkpointer:
    checkpointer.save_checkpointables(4, {"model": params, "texts": texts})
    expect("new-several", {"model": checkpointer.load_checkpointables(4)["model"]})

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
running = [subprocess.Popen([sys.executable, __file__, str(out), str(rank), port]) for rank in (0, 1)]
assert [process.wait() for process in running] == [0, 0]
