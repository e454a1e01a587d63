"""torch.distributed.checkpoint with milepost's storage beside its own, on a model that FSDP2 divides over real processes.

    python bench/sharded_saves.py --ranks 2                       100 million parameters with Adam, 1.2 GB of state
    python bench/sharded_saves.py --ranks 4 --width 512 --rounds 2

In each round each storage saves once by `save`, once by `async_save` and is loaded from once, in turn. What is given is the slowest
rank's time. For `async_save` the stall is the time until the call returns, and the time to durable runs from its beginning. The
first round is left out. For comparison rank 0 writes as many bytes by nothing but system calls (see plain_io.py). Both storages
sync their files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--width", type=int, default=5000, help="of the four square layers (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="that count (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    return parser.parse_args()


def launch(options: argparse.Namespace) -> int:
    """Start the ranks."""
    home = tempfile.mkdtemp(dir=options.folder)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={options.ranks}",
        __file__,
    ]
    command += [
        f"--width={options.width}",
        f"--rounds={options.rounds}",
        f"--folder={home}",
        f"--ranks={options.ranks}",
    ]
    try:
        environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **os.environ}
        return subprocess.run(command, env=environment).returncode
    finally:
        shutil.rmtree(home)


def rank(options: argparse.Namespace) -> None:
    """What each rank does."""
    import plain_io
    import torch
    import torch.distributed as dist
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.fsdp import fully_shard

    from milepost.torch import StorageReader, StorageWriter

    dist.init_process_group("gloo")
    width, home = options.width, options.folder
    model: Any = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(4)))
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        model(torch.ones(1, width)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def state() -> dict[str, Any]:
        weights, moments = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": moments}

    times: defaultdict[str, list[float]] = defaultdict(list)
    clock = dist.new_group()  # `async_save` goes on talking over the default one

    def slowest(name: str, took: float) -> None:
        over_all = torch.tensor(took)
        dist.all_reduce(over_all, dist.ReduceOp.MAX, clock)
        times[name].append(over_all.item())

    def since_together() -> float:
        dist.barrier(clock)
        return time.perf_counter()

    def trial(name: str, writer: Any, reader: Any) -> None:
        """One save, one load, one save beside training."""
        held, folder = state(), home / name
        shutil.rmtree(folder, ignore_errors=True)
        began = since_together()
        dcp.save(held, storage_writer=writer, checkpoint_id=folder)
        slowest(f"{name} save", time.perf_counter() - began)
        began = since_together()
        dcp.load(held, storage_reader=reader(folder))
        slowest(f"{name} load", time.perf_counter() - began)
        shutil.rmtree(folder, ignore_errors=True)
        began = since_together()
        pending: Any = dcp.async_save(held, storage_writer=writer, checkpoint_id=folder)
        stall = time.perf_counter() - began
        pending.result()
        slowest(f"{name} async_save, durable", time.perf_counter() - began)
        slowest(f"{name} async_save, stall", stall)

    storages: dict[str, tuple[Any, Any]] = {
        "milepost": (StorageWriter(home / "milepost"), StorageReader),
        "DCP": (dcp.FileSystemWriter(home / "DCP"), dcp.FileSystemReader),
    }
    for _ in range(options.rounds + 1):
        for name, (writer, reader) in storages.items():
            step()
            trial(name, writer, reader)
    size = sum(path.stat().st_size for path in (home / "DCP").iterdir())
    if dist.get_rank() == 0:
        for _ in range(options.rounds):
            times["plain write"].append(plain_io.write(home / "plain", size))
            (home / "plain").unlink()
        print(f"PyTorch {torch.__version__}, {options.ranks} ranks, {size / 1e9:.2f} GB of state")
        for name in sorted(times):
            counted = times[name][-options.rounds :]
            print(f"{name:28} {median(counted):7.3f} s   ({', '.join(f'{one:.2f}' for one in counted)})")
        for what in ("save", "load", "async_save, stall", "async_save, durable"):
            ours, theirs = (median(times[f"{name} {what}"][1:]) for name in storages)
            print(f"{what:28} milepost takes {ours / theirs:.2f} of DCP's time")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    options = arguments()
    if "RANK" in os.environ:
        rank(options)
    else:
        sys.exit(launch(options))
