"""A restored module keeps nothing of the memory that the checkpoint was read into: the next snapshot is staged there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import milepost


class KeepsWhatItLoads(nn.Module):
    """Takes a tensor of the state dict as it is, as some quantised modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(40, 50))
        self.scale = torch.randn(50)

    def _save_to_state_dict(self, destination: dict[str, object], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]
        destination[prefix + "scale"] = self.scale

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *rest: object) -> None:
        self.scale = state_dict.pop(prefix + "scale")
        super()._load_from_state_dict(state_dict, prefix, *rest)  # type: ignore[no-untyped-call]


class HasExtraState(nn.Module):
    """Keeps tensors in its extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(40, 50))
        self.scale = torch.randn(50)

    def get_extra_state(self) -> dict[str, torch.Tensor]:
        return {"scale": self.scale}

    def set_extra_state(self, state: dict[str, torch.Tensor]) -> None:
        self.scale = state["scale"]


@pytest.mark.parametrize("kind", [KeepsWhatItLoads, HasExtraState])
def test_what_a_module_keeps_is_its_own(tmp_path: Path, kind: type[nn.Module]) -> None:
    saved = kind()
    with milepost.Checkpointer(tmp_path / "run", model=saved) as run:
        run.save()
    scale = saved.scale.clone()

    model = nn.Sequential(kind())[0]
    with milepost.Checkpointer(tmp_path / "run", model=model, progress=False) as run:
        assert torch.equal(model.scale, scale)
        with torch.no_grad():
            model.weight += 1
        for _ in range(3):  # staged into the memory that the checkpoint was read into
            run.step()
            run.save()
            run.wait()
        assert torch.equal(model.scale, scale)
        assert torch.equal(torch.from_numpy(milepost.open(str(tmp_path / "run"))["model/weight"].copy()), model.weight)
