"""What lets a snapshot be taken during the next forward and backward pass: only an optimizer step changes parameters and optimizer
state, and torch calls a hook before each step of whichever optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from milepost.torch.items import OptimizerItem
from milepost.training.glimpse import Glimpses
from milepost.training.items import Item


def make_guard(items: Sequence[Item], wait: Callable[[], None]) -> StepGuard | None:
    """A guard over the torch optimizers among `items`; None if there are none."""
    optimizers = [item for item in items if isinstance(item, OptimizerItem)]
    return StepGuard(optimizers, wait) if optimizers else None


def _pieces(tensors: Iterable[torch.Tensor]) -> Iterator[tuple[int, int]]:
    """Address and size of those tensors that are bytes in a row in host memory."""
    for one in tensors:
        if one.is_cpu and one.is_contiguous():
            yield one.data_ptr(), one.numel() * one.element_size()


class _Noted:
    """How tensors stood: by their version counters, and by a glimpse of those that are in host memory, which shows what
    does not move the counters (``.data``, NumPy views, the first step of SAM)."""

    def __init__(self, tensors: Sequence[torch.Tensor], looked_at: Iterable[torch.Tensor], most: int) -> None:
        self._tensors = tensors
        self.addresses = {tensor.data_ptr() for tensor in tensors}
        self._versions = [tensor._version for tensor in tensors]
        # Lest the memory is given back when a script puts other memory behind a tensor.
        self._held = [tensor.untyped_storage() for tensor in tensors]
        self._glimpses = Glimpses(_pieces(looked_at), most)

    def __call__(self) -> bool:
        intact = self._versions == [tensor._version for tensor in self._tensors] and self._glimpses.same()
        self._tensors, self._held, self._glimpses = [], [], Glimpses([], 0)
        return intact


class StepGuard:
    """Lets every optimizer step of the process wait until staging is done, and counts the steps of the run's own optimizers.

    In a step that went through torch.compile the hook is part of the compiled code, where nothing can wait; then `moved` tells that
    there was a step: by the version counters of the tensors and, as fused kernels do not move those, by the weights themselves.
    """

    LOOKED_AT = 16
    """So many parameters are looked at after each step."""

    def __init__(self, items: Sequence[OptimizerItem], wait: Callable[[], None]) -> None:
        self._items = items
        self._optimizers = {id(item.object) for item in items}
        self._wait = wait
        self.steps = 0
        self._versions, self._weights = self._version_sum(), self._look()
        self._handle: Any = register_optimizer_step_pre_hook(self._before)

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            return  # traced into the graph, where nothing could wait
        self._wait()
        if id(optimizer) in self._optimizers:
            self.steps += 1

    def moved(self) -> bool:
        """Whether an owned tensor was seen to change since the last call."""
        versions, weights = self._versions, self._weights
        self._versions, self._weights = self._version_sum(), self._look()
        return self._versions != versions or self._weights != weights

    def _look(self) -> list[bytes]:
        parameters = [parameter for item in self._items for parameter in item.parameters()]
        spread = parameters[:: max(1, len(parameters) // self.LOOKED_AT)]
        return Glimpses(_pieces(spread), 64).seen

    def note(self) -> _Noted:
        """Remember how the owned tensors stand, those that only an optimizer step changes."""
        parameters = [parameter for item in self._items for parameter in item.parameters()]
        return _Noted(self._tensors(), parameters, 64)

    def note_all(self, values: Iterable[object]) -> _Noted:
        """The same for whatever tensors of torch are among `values`."""
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        return _Noted(tensors, tensors, 4096)

    def _version_sum(self) -> int:
        return sum(tensor._version for tensor in self._tensors())

    def _tensors(self) -> list[torch.Tensor]:
        found = []
        for item in self._items:
            found += item.parameters()
            for state in item.object.state.values():
                if isinstance(state, dict):
                    found += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return found

    def gradients(self) -> dict[str, Any]:
        """The gradients of all parameters that have one, by item and number. Sparse ones cannot be stored and are left out."""
        return {
            item.name: {
                number: parameter.grad
                for number, parameter in enumerate(item.parameters())
                if parameter.grad is not None and parameter.grad.layout is torch.strided
            }
            for item in self._items
        }

    def put_gradients(self, saved: Mapping[str, Any]) -> None:
        """Put back what `gradients` gave."""
        for item in self._items:
            parameters = item.parameters()
            for number, gradient in saved.get(item.name, {}).items():
                parameters[number].grad = gradient.to(parameters[number].device)

    def close(self) -> None:
        """Take the hook away."""
        self._handle.remove()
