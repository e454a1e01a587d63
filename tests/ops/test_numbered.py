"""The parameters that optimizers number: found where it is certain which they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import milepost
from milepost.ops.numbered import parameters


def saved(place: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **more: Any) -> Path:
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **more}, place)
    return place


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adadelta, torch.optim.RMSprop])
def test_every_parameter_of_a_model(tmp_path: Path, kind: type[torch.optim.Optimizer]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 2))
    average = {name: value.clone() for name, value in model.state_dict().items()}
    found = parameters(milepost.open(saved(tmp_path / "x.pt", model, kind(model.parameters()), average=average)))
    assert found == {f"optimizer/state/{at}": name for at, (name, _) in enumerate(model.named_parameters())}


@pytest.mark.parametrize(("shape", "certain"), [((7,), True), ((3,), False)])
def test_other_buffers_are_passed_over_where_shapes_tell(tmp_path: Path, shape: tuple[int, ...], certain: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].register_buffer("mask", torch.zeros(shape))  # behind the bias, which has 3 elements
    found = parameters(milepost.open(saved(tmp_path / "x.pt", model, torch.optim.Adam(model.parameters()))))
    names = {f"optimizer/state/{at}": name for at, name in enumerate(["0.weight", "0.bias", "1.weight", "1.bias"])}
    assert found == (names if certain else {})


def test_what_is_not_certain_is_not_said(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    part = torch.optim.Adam(model[2].parameters())  # or those of the first layer
    assert parameters(milepost.open(saved(tmp_path / "x.pt", model, part))) == {}
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    groups = torch.optim.Adam([{"params": model[0].parameters()}, {"params": model[1].parameters()}])
    assert parameters(milepost.open(saved(tmp_path / "x.pt", model, groups))) == {}
    one = torch.optim.SGD(model.parameters(), 0.1)
    assert parameters(milepost.open(saved(tmp_path / "x.pt", model, one))) == {}  # which keeps nothing
    other = {f"other.{name}": value.clone() for name, value in model.state_dict().items()}
    both = saved(tmp_path / "x.pt", model, torch.optim.Adam(model.parameters()), other=other)
    assert parameters(milepost.open(both)) == {}  # of which model?


def test_show_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from milepost.cli.main import main

    model = nn.Linear(4, 2)
    place = saved(tmp_path / "x.pt", model, torch.optim.Adam(model.parameters()))
    assert main(["show", str(place), "optimizer/state"]) == 0
    lines = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert lines["0"] == "weight"
    assert lines["1"] == "bias"
    assert main(["show", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == {"optimizer/state/0": "weight", "optimizer/state/1": "bias"}
