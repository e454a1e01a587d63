"""Checkpoints in every layout that Orbax writes, one of them by two processes, and what was in them (``expected.npz``)."""

import os
import socket
import subprocess
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import orbax.checkpoint.experimental.v1 as v1

out = Path(sys.argv[1]).absolute()


def together(rank: int, port: str) -> None:
    """One of two processes that save an array of which each has a half."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    same = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    whole = np.arange(24, dtype=np.float32).reshape(8, 3)
    tree = {
        "split": jax.make_array_from_callback(whole.shape, split, lambda index: whole[index]),
        "same": jax.make_array_from_callback((2,), same, lambda index: np.arange(2.0)[index]),
    }
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(out / "two_processes", tree)


if len(sys.argv) > 2:
    together(int(sys.argv[2]), sys.argv[3])
    sys.exit()

names = "bool int8 int32 int64 uint8 uint16 float16 float32 float64 complex64 bfloat16 float8_e4m3fn float8_e5m2 int4"
rng = np.random.default_rng(0)
kinds = {name: rng.integers(0, 2, (3, 4)).astype(getattr(ml_dtypes, name, name)) for name in names.split()}
arrays = {
    "params": {"dense/0": {"kernel": jnp.arange(12.0).reshape(3, 4)}},
    "opt": [jnp.zeros(2), {"mu": np.arange(3)}],
}
tree = {**arrays, "step": 7, "rate": 1e-3, "note": "text", "none": None, "nothing": {}}
for ocdbt in (True, False):
    for zarr3 in (True, False):
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
        ocp.Checkpointer(handler).save(out / f"{'ocdbt' if ocdbt else 'files'}-{'zarr3' if zarr3 else 'zarr'}", tree)
ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(out / "kinds", kinds)
ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).save(
    out / "large", {"w": np.arange(20_000_000, dtype=np.float32).reshape(5000, 4000)}
)
with ocp.CheckpointManager(out / "manager", options=ocp.CheckpointManagerOptions(max_to_keep=2)) as manager:
    for step in (1, 2, 10):
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave({"a": [1, 2]}))
        manager.save(step, args=items, metrics={"loss": 1.0})
key, keys = jax.random.key(3), jax.random.split(jax.random.key(1))
odd = {
    "key": key, "keys": keys, "zero": jnp.float32(2.5), "int": 5, "truth": True, "text": "hello", "none": None, "dict": {},
    "list": [], "tuple": (), "a": {"b.c": np.arange(3)}, "..": np.arange(1), "x/y": np.arange(2),
}  # fmt: skip
ocp.PyTreeCheckpointer().save(out / "odd", odd)
np.savez(out / "expected-odd.npz", key=jax.random.key_data(key), keys=jax.random.key_data(keys), dots=np.arange(3))
ocp.PyTreeCheckpointer().save(out / "none", {"a": None})
ocp.PyTreeCheckpointer().save(out / "leaf", np.arange(3))
ocp.Checkpointer(ocp.JsonCheckpointHandler()).save(out / "json", {"a": [1, 2]})
with ocp.CheckpointManager(out / "manager-of-keys") as manager:
    items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), rng=ocp.args.JaxRandomKeySave(key))
    manager.save(3, args=items)
# Today's Orbax reads, and no longer writes, what it wrote at first: a tree that Flax serialised, with small values in it.
legacy = out / "legacy"
ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)).save(legacy, arrays)
for mark in (*legacy.glob("_*"), *legacy.glob("array_metadatas/*")):
    mark.unlink()
(legacy / "array_metadatas").rmdir()
named = {
    "params": {"dense/0": {"kernel": "PLACEHOLDER://params.dense/0.kernel"}},
    "opt": {"0": "PLACEHOLDER://opt.0", "1": {"mu": "PLACEHOLDER://opt.1.mu"}},
}
beside = {"step": 7, "scale": np.arange(3, dtype=np.float32), "note": "text", "nothing": {}}
(legacy / "checkpoint").write_bytes(ocp.msgpack_utils.msgpack_serialize({**named, **beside}))
restored = ocp.PyTreeCheckpointer().restore(legacy)
assert restored["step"] == 7
assert np.array_equal(restored["params"]["dense/0"]["kernel"], arrays["params"]["dense/0"]["kernel"])
v1.save(out / "v1", tree) if hasattr(v1, "save") else v1.save_pytree(out / "v1", tree)
v1.save_checkpointables(out / "v1-several", {"model": arrays, "data": {"x": np.arange(3)}})
np.savez(out / "expected.npz", **{name: array.view(np.uint8) for name, array in kinds.items()})


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
running = [subprocess.Popen([sys.executable, __file__, str(out), str(rank), port]) for rank in (0, 1)]
assert [process.wait() for process in running] == [0, 0]
