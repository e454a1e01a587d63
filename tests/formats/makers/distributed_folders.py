"""Folders of torch.distributed.checkpoint, of one process and of four, and what torch itself makes of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

PROCESSES = 4


def alone(folder: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 7,
        "a.b": {"c/d": torch.arange(3), "~": [torch.ones(2), {"deep": 3}]},
        "types": {
            str(kind).removeprefix("torch."): torch.ones(3, 2).to(kind)
            for kind in (torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool, torch.uint8, torch.int64)
        },
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
        "words": ["x", "y"],
    }
    dcp.save(state, checkpoint_id=folder / "alone", no_dist=True)
    dcp_to_torch_save(folder / "alone", folder / "alone.pt")


def of_group(rank: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "localhost", "RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))

    def put(tensor: torch.Tensor, *placements: Any) -> torch.Tensor:
        return distribute_tensor(tensor, mesh, placements)

    state = {
        "rows": put(torch.arange(35.0).reshape(7, 5), Shard(0), Replicate()),
        "columns": put(torch.arange(35).reshape(7, 5), Replicate(), Shard(1)),
        "both": put(torch.arange(35.0, dtype=torch.bfloat16).reshape(7, 5), Shard(0), Shard(1)),
        "twice": put(torch.arange(90).reshape(9, 5, 2), Shard(0), Shard(0)),
        "few": put(torch.arange(2.0), Shard(0), Shard(0)),
        "whole": put(torch.arange(4.0), Replicate(), Replicate()),
        "step": 12,
    }
    dcp.save(state, checkpoint_id=folder / "group")
    dist.barrier()
    dcp.save(
        {"of rank": torch.tensor(rank), "epoch": rank}, dcp.FileSystemWriter(folder / "ranks"), use_collectives=False
    )
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    mp.start_processes(of_group, (target,), PROCESSES, start_method="fork")  # torch takes seconds to import
    alone(target)
    dcp_to_torch_save(target / "group", target / "group.pt")
