"""Modules and optimizers of PyTorch as items."""

from __future__ import annotations

from typing import Any

import torch

from milepost.errors import Mismatch, MismatchError
from milepost.torch.adapter import ADAPTER
from milepost.training.items import Item, Loaded, compare


def make_item(name: str, value: Any) -> Item | None:
    """The item for a torch object that needs more than `state_dict` and `load_state_dict`; None for the others."""
    if isinstance(value, torch.nn.Module):
        return ModuleItem(name, value)
    if isinstance(value, torch.optim.Optimizer):
        return OptimizerItem(name, value)
    return None


def _shown(tensor: torch.Tensor) -> str:
    info = ADAPTER.describe(tensor)
    return f"{info.dtype.name} {list(info.shape)}"


def _copies_what_it_loads(module: torch.nn.Module) -> bool:
    kind, base = type(module), torch.nn.Module
    own = kind.__module__.startswith("torch.nn.modules.")
    loads = all(
        getattr(kind, name) is getattr(base, name)
        for name in ("load_state_dict", "_load_from_state_dict", "set_extra_state")
    )
    return (own or loads) and not module._load_state_dict_pre_hooks and not module._load_state_dict_post_hooks


class ModuleItem:
    """A module: parameters, buffers and extra state, by the names of its `state_dict`."""

    replaced = False

    def __init__(self, name: str, module: torch.nn.Module) -> None:
        self.name, self.object = name, module

    @property
    def borrows(self) -> bool:
        """Torch's own modules copy what they load; others, hooks and extra state may keep it."""
        return all(_copies_what_it_loads(module) for module in self.object.modules())

    def capture(self) -> Any:
        return self.object.state_dict(keep_vars=True)  # parameters stay parameters, which tells them from buffers

    def trained(self, tensor: Any) -> bool:
        return isinstance(tensor, torch.nn.Parameter)

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        here = {
            f"{self.name}/{key}": _shown(value)
            for key, value in self.object.state_dict(keep_vars=True).items()
            if isinstance(value, torch.Tensor)
        }
        there = {f"{self.name}/{key}": f"{one.dtype} {list(one.shape)}" for key, one in saved.tensors.items()}
        rows = compare(there, here)
        return [row for row in rows if not _is_extra_state(row.path.removeprefix(f"{self.name}/"))]

    def restore(self, saved: Loaded) -> None:
        try:
            self.object.load_state_dict(saved.value())
        except Exception as error:
            raise MismatchError(f"the module refused the saved state: {error}", where=self.name) from error


class OptimizerItem:
    """An optimizer of `torch.optim`, or a subclass of its base.

    `Optimizer.load_state_dict` casts state to the dtype of the parameter and keeps the caller's tensors; here state
    comes back with the dtype and strides it was saved with, in memory of its own.
    """

    replaced = borrows = False

    def __init__(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        self.name, self.object = name, optimizer

    def capture(self) -> Any:
        return self.object.state_dict()

    def trained(self, tensor: Any) -> bool:
        return True

    def parameters(self) -> list[torch.Tensor]:
        """All parameters, in the order in which `state_dict` numbers them."""
        return [parameter for group in self.object.param_groups for parameter in group["params"]]

    def mismatches(self, saved: Loaded) -> list[Mismatch]:
        groups = saved.structure.get("param_groups") if isinstance(saved.structure, dict) else None
        if not isinstance(groups, list):
            return [Mismatch(self.name, "no state of a torch optimizer", type(self.object).__name__)]
        there = {
            f"{self.name}/param_groups/{number}": f"{len(group['params'])} parameters"
            for number, group in enumerate(groups)
        }
        here = {
            f"{self.name}/param_groups/{number}": f"{len(group['params'])} parameters"
            for number, group in enumerate(self.object.param_groups)
        }
        rows = compare(there, here) or self._other_options(groups)
        if not rows:
            parameters = self.parameters()
            for key, tensor in saved.tensors.items():
                rows += self._state_mismatch(key, tensor.shape, parameters)
        return rows

    def _other_options(self, groups: list[Any]) -> list[Mismatch]:
        """Groups that know other options, and not those of this optimizer, are those of another kind of optimizer. Another version
        of the same kind has some more, or some less."""
        for number, (saved, live) in enumerate(zip(groups, self.object.param_groups, strict=True)):
            ours = sorted(self.object.defaults.keys() - saved.keys())
            theirs = sorted(saved.keys() - live.keys() - {"initial_lr"})
            if ours and theirs:
                path = f"{self.name}/param_groups/{number}"
                return [Mismatch(path, ", ".join(theirs), f"{type(self.object).__name__}: {', '.join(ours)}")]
        return []

    def _state_mismatch(self, key: str, shape: tuple[int, ...], parameters: list[torch.Tensor]) -> list[Mismatch]:
        """State of a parameter that has its number of elements and dimensions has its shape too, in every optimizer we know; a
        difference means that the parameters are in another order or of another size. Other state (scalars, factors) is not
        judged."""
        parts = key.split("/")
        if len(parts) != 3 or parts[0] != "state" or len(shape) < 1:
            return []
        number = int("".join(char for char in parts[1] if char.isdigit()) or -1)
        if not 0 <= number < len(parameters) or parts[2] not in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
            return []
        expected = tuple(parameters[number].shape)
        if shape == expected:
            return []
        return [Mismatch(f"{self.name}/{key}", str(list(shape)), f"parameter {number} {list(expected)}")]

    def restore(self, saved: Loaded) -> None:
        state = saved.value()
        before = [dict(group) for group in self.object.param_groups]
        try:
            self.object.load_state_dict({**state, "state": dict(state["state"])})
        except Exception as error:
            raise MismatchError(f"the optimizer refused the saved state: {error}", where=self.name) from error
        for group, options in zip(self.object.param_groups, before, strict=True):
            for key, value in options.items():
                group.setdefault(key, value)  # what the version that saved did not know
        parameters = self.parameters()
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            for key, value in state["state"].get(number, {}).items():
                live = self.object.state[parameter]
                live[key] = _as_saved(live.get(key), value, parameter.device)


def _is_extra_state(key: str) -> bool:
    """Whether a tensor is (part of) a module's extra state, which may be anything and is the module's own business."""
    return key.partition("/")[0].rpartition(".")[2] == "_extra_state"


def _as_saved(live: Any, saved: Any, device: torch.device) -> Any:
    """What `Optimizer.load_state_dict` made of a value, `live`, with what it lost: the dtype and strides of tensors at any
    depth, and texts, which it takes for containers."""
    if isinstance(saved, torch.Tensor):
        if not isinstance(live, torch.Tensor):
            return saved.to(device)
        same = live.dtype == saved.dtype and live.stride() == saved.stride()
        return live if same else saved.to(live.device)
    if isinstance(saved, dict):
        inside = live if isinstance(live, dict) else {}
        return {key: _as_saved(inside.get(key), value, device) for key, value in saved.items()}
    if isinstance(saved, (list, tuple)):
        pairs = zip(live, saved, strict=True) if isinstance(live, type(saved)) else ((None, value) for value in saved)
        made = [_as_saved(one, value, device) for one, value in pairs]
        return saved._make(made) if hasattr(saved, "_make") else type(saved)(made)
    return saved if live is None or type(live) is type(saved) else live
