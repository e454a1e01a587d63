"""What the ranks of the tests do: ``torchrun ... ranks.py JOB ARGUMENTS``."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from milepost.torch import StorageReader, StorageWriter

Optimizer = torch.optim.Optimizer


def model_of(kind: str) -> tuple[nn.Module, Optimizer]:
    """A model with an uneven dimension, divided as `kind` says, that was trained for two steps on all ranks."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(10, 600), nn.ReLU(), nn.Linear(600, 7), nn.BatchNorm1d(7))
    if kind == "fsdp":
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
    elif kind == "2d":
        mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "model"))
        parallelize_module(model, mesh["model"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(model, mesh=mesh["data"])
    elif kind == "ddp":
        model = DistributedDataParallel(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def train(model: nn.Module, optimizer: Optimizer, steps: int = 2) -> None:
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(6, 10)).square().sum().backward()
        optimizer.step()


def state_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments, "step": 2, "plain": {"betas": (0.9, 0.99), "seen": {1, 2}}}


def whole(state: Any, under: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor of a state dict, gathered from all ranks."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for key, value in state.items():
        if isinstance(value, dict):
            found |= whole(value, f"{under}{key}/")
        elif isinstance(value, torch.Tensor):
            found[f"{under}{key}"] = (value.full_tensor() if isinstance(value, DTensor) else value).numpy()
    return found


def save(folder: str, *kinds: str) -> None:
    """Save by milepost, and what is right beside it."""
    for kind in kinds:
        if dist.get_rank() == 0:
            Path(folder, kind).mkdir()
        dist.barrier()
        _save(kind, f"{folder}/{kind}")


def _save(kind: str, folder: str) -> None:
    model, optimizer = model_of(kind)
    train(model, optimizer)
    state = state_of(model, optimizer)
    dcp.async_save(state, storage_writer=StorageWriter(f"{folder}/async", thread_count=2)).result()  # type: ignore[union-attr]
    dcp.save(state, storage_writer=StorageWriter(f"{folder}/each", single_file_per_rank=False))
    writer = StorageWriter(f"{folder}/step-2")
    dcp.save(state, storage_writer=writer)
    arrays = whole(state)
    if dist.get_rank() == 0:
        np.savez(f"{folder}/right.npz", **arrays)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():  # the moments stay, and are to be linked
            parameter.add_(1)
    dcp.save(state, storage_writer=writer, checkpoint_id=f"{folder}/step-3")


def load(folder: str, *kinds: str) -> None:
    """Load what was saved in every way into a model that is divided in others; every rank compares all of it."""
    for kind in kinds:
        for saved in sorted(os.listdir(folder)):
            _load(kind, f"{folder}/{saved}")
            print(f"<{dist.get_rank()}> {saved} to {kind}", flush=True)


def _load(kind: str, folder: str) -> None:
    model, optimizer = model_of(kind)
    train(model, optimizer, steps=1)
    state = state_of(model, optimizer) | {"step": 0}
    dcp.load(state, storage_reader=StorageReader(f"{folder}/step-2"))
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    found = whole(state_of(model, optimizer))
    right = np.load(f"{folder}/right.npz")
    assert state["step"] == 2
    assert state["plain"] == {"betas": (0.9, 0.99), "seen": {1, 2}}
    assert set(right) == set(found)
    for name in right:
        np.testing.assert_array_equal(found[name], right[name], err_msg=name)


def unstorable(folder: str) -> None:
    """One rank holds what cannot be stored: all are told, and there is no checkpoint."""
    state = {f"of rank {dist.get_rank()}": {"value": object() if dist.get_rank() else 3}}
    try:
        dcp.save(state, storage_writer=StorageWriter(f"{folder}/step-1"))
    except dcp.CheckpointException as error:
        (rank,) = error.failures
        print(f"<{dist.get_rank()}> rank {rank}: {error.failures[rank][0]}")
        assert not Path(folder, "step-1").exists()


def death(folder: str) -> None:
    """A rank dies while it writes: the others are told, and the checkpoint that was there stays."""
    state = {"model": {f"weight{dist.get_rank()}": torch.full((1000,), float(dist.get_rank()))}}
    path = f"{folder}/latest"
    dcp.save(state, storage_writer=StorageWriter(path))
    writer = StorageWriter(path)
    if dist.get_rank() == 1:
        writer.write_data = lambda plan, planner: os._exit(1)  # type: ignore[method-assign]
    try:
        dcp.save(state | {"more": 1}, storage_writer=writer)
    except Exception as error:
        print(f"<{dist.get_rank()}> {type(error).__name__}")
        os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    globals()[sys.argv[1]](*sys.argv[2:])
    dist.destroy_process_group()
