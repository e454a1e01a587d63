"""Weights of checkpoints go into modules: below whatever folder they are, wrapped or not, tied or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model

import milepost
from milepost.errors import MismatchError, ScriptError


class Net(torch.nn.Module):
    """An embedding that is tied to the output, and buffers."""

    def __init__(self, seed: int, tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(7, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.out = torch.nn.Linear(4, 7, bias=False)
        if tied:
            self.out.weight = self.embed.weight


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_and_files_of_several_kinds(tmp_path: Path) -> None:
    source = Net(1)
    optimizer = torch.optim.Adam(source.parameters())
    source.norm.running_mean += 3
    with milepost.Checkpointer(tmp_path / "run", net=source, optimizer=optimizer, progress=False) as run:
        for _ in run.steps(1):
            source.embed.weight.sum().backward()
            optimizer.step()
            run.step()
    state = source.state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": one for name, one in state.items()}}, tmp_path / "ddp.pt")
    torch.save(state, tmp_path / "plain.pt")
    save_model(source, str(tmp_path / "tied.safetensors"))  # which names one of the two tied tensors
    for place in ("run", "ddp.pt", "plain.pt", "tied.safetensors"):
        target = Net(2)
        report = milepost.transfer(tmp_path / place, target)
        assert report.acceptable, place
        assert same(target, source), place
        assert target.out.weight is target.embed.weight
    with pytest.raises(MismatchError, match=r"out\.weight"):
        milepost.transfer(tmp_path / "tied.safetensors", Net(3, tied=False))


def test_types_are_kept_and_tensors_that_differ_are_not_tied(tmp_path: Path) -> None:
    source, half = Net(1, tied=False), Net(2, tied=False).bfloat16()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    report = milepost.transfer(tmp_path / "w.pt", half)
    assert report.cast["embed.weight"] == "float32 → bfloat16"
    assert same(half, source.bfloat16())
    tied = Net(3)
    before = {name: one.clone() for name, one in tied.state_dict().items()}
    with pytest.raises(MismatchError, match="one tensor in the target, and two that differ in the source"):
        milepost.transfer(tmp_path / "w.pt", tied)
    assert all(torch.equal(before[name], one) for name, one in tied.state_dict().items())


def test_weights_and_their_average_are_not_mixed_up(tmp_path: Path) -> None:
    one, average = Net(1), Net(2)
    torch.save({"model": one.state_dict(), "ema": average.state_dict()}, tmp_path / "both.pt")
    with pytest.raises(ScriptError, match="in 2 ways") as caught:
        milepost.transfer(tmp_path / "both.pt", Net(3))
    assert "'model/embed.weight', 'ema/embed.weight'" in str(caught.value)
    target = Net(3)
    report = milepost.transfer(tmp_path / "both.pt", target, exclude="model")
    assert same(target, average)
    assert report.renamed["embed.weight"] == "ema/embed.weight"
