"""Write the golden run of this version of the format: ``python tests/format/golden/make.py tests/format/golden/v1.1``, and, as
``v1.1-ranks`` beside it, a checkpoint of two ranks.

Run it once for each version of the format, never again for the same: `test_golden.py` reads what is there, so that runs of
today can still be read tomorrow.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import milepost
from milepost.training import provenance


def state(step: int) -> dict[str, Any]:
    """The items of the golden run after `step` steps."""
    first = np.arange(6, dtype=np.float32).reshape(2, 3) * step
    return {
        "model": {
            "first.weight": first,
            "first.bias": np.array([0.5, -0.0, np.float32(1e-45)], np.float32),
            "frozen": np.arange(2000, dtype=np.float64),
            "half": np.array([1.5, -2.25], ml_dtypes.bfloat16),
            "quarter": np.array([1.0, 448.0], ml_dtypes.float8_e4m3fn),
            "phase": np.array([1 + 2j], np.complex128),
            "mask": np.array([True, False]),
            "empty": np.zeros((0, 3), np.int16),
            "scalar": np.array(7, np.int64),
            "tied": first,
        },
        "plain": {
            "step": step,
            "name": "größe/~",
            1: "int key",
            "1": "str key",
            None: (1, [2.5, float("inf")], {3}, b"\x00\xff", 1 + 2j),
            "big": 2**70,
        },
    }


def jax_state() -> Any:
    """What is new in 1.1: arrays of JAX that are more than a dtype and a shape."""
    import jax

    return {"scale": jax.numpy.asarray(0.5), "keys": jax.random.split(jax.random.key(7)), "raw": jax.random.PRNGKey(7)}


def sharded(rank: int) -> dict[str, Any]:
    """What is new in 1.1: tensors in boxes. `rank` holds its rows of each."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    weight = distribute_tensor(torch.arange(15.0).reshape(5, 3), mesh, [Shard(0)])
    return {"model": {"weight": weight, "bias": torch.arange(5.0).bfloat16()}, "step": 3}


def write_sharded(rank: int, place: str, meeting: str) -> None:
    """Be one of two ranks."""
    import torch.distributed as dist
    from torch.distributed import checkpoint as dcp

    from milepost.torch import StorageWriter

    provenance.written_by = lambda: {"milepost": milepost.__version__}
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    dcp.save(sharded(rank), storage_writer=StorageWriter(place, step=3))
    dist.destroy_process_group()


def main() -> None:
    """Three checkpoints, the last two sharing what did not change; and one of two ranks."""
    import torch.multiprocessing

    provenance.written_by = lambda: {"milepost": milepost.__version__}  # not where this was run
    place = Path(sys.argv[1])
    with milepost.Checkpointer(place, signals=(), progress=False, **state(0), jax=jax_state()) as run:
        for step in (1, 2, 3):
            run.step(loss=1 / step, **state(step), jax=jax_state())
            run.save()
            run.wait()
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(write_sharded, (f"{place}-ranks", f"{folder}/meeting"), nprocs=2)


if __name__ == "__main__":
    main()
