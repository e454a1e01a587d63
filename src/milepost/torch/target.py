"""Modules of PyTorch as targets of `milepost.transfer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch

from milepost.core.manifest import Tensor
from milepost.core.source import TensorSpec
from milepost.errors import MismatchError, ScriptError
from milepost.ops.counterparts import Slot
from milepost.torch.adapter import ADAPTER

_WRAPPERS = ("module.", "_orig_mod.")
"""What `DistributedDataParallel` and `torch.compile` put before each name."""


def make_target(value: Any, *, everything: bool = False) -> ModuleTarget | None:
    """A module; None for others."""
    return ModuleTarget(value) if isinstance(value, torch.nn.Module) else None


class ModuleTarget:
    """A module: its parameters and persistent buffers, by the names of its `state_dict`."""

    weights = True
    numbered: tuple[Mapping[str, str], ...] = ()

    def __init__(self, module: torch.nn.Module) -> None:
        self.where = f"the {type(module).__name__}"
        self._tensors = {
            name: one for name, one in module.state_dict(keep_vars=True).items() if isinstance(one, torch.Tensor)
        }
        if not self._tensors:
            raise ScriptError(f"{self.where} has no tensors to load into")
        self.slots = {name: _slot(name, one) for name, one in self._tensors.items()}
        self._bare = {_unwrapped(name): name for name in self.slots}

    def find(self, path: str) -> str | None:
        return path if path in self.slots else self._bare.get(_unwrapped(path))

    def live(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def load(self, values: Mapping[str, npt.NDArray[Any]]) -> None:
        before: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            try:
                for name, value in values.items():
                    live = self._tensors[name]
                    before[name] = live.detach().clone()
                    live.copy_(_tensor(value, self.slots[name].spec))
            except Exception as error:
                for name, kept in before.items():
                    self._tensors[name].copy_(kept)
                raise MismatchError(f"{self.where} refused a value: {error}", where=name) from error


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _slot(name: str, tensor: torch.Tensor) -> Slot:
    info = ADAPTER.describe(tensor)
    return Slot(name, TensorSpec(info.dtype, info.shape, info.nbytes), info.memory)


def _tensor(value: npt.NDArray[Any], spec: TensorSpec) -> torch.Tensor:
    raw = memoryview(bytearray(value.tobytes()))  # torch wants memory that it could write to
    return ADAPTER.view(raw, Tensor(spec.dtype.name, spec.shape))
