"""What `milepost audit` has to know about PyTorch: which objects carry state, and batches that are read past ``run.batches``."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

import milepost

_HERE = str(Path(milepost.__file__).parent)
_NOT_STATE = {
    "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_is_full_backward_hook", "_backward_hooks",
    "_backward_pre_hooks", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
}  # fmt: skip


def look_into(value: Any, *, is_item: bool) -> tuple[str, Mapping[str, Any]] | None:
    """See `milepost.auditing.evidence.Framework`."""
    if isinstance(value, Settings):
        return "setting", value.read()
    if isinstance(value, nn.Module):
        beside = _beside_state(value)
        if is_item:
            return "state", beside
        kind = "metric" if type(value).__module__.startswith("torchmetrics") else "module"
        return kind, {**dict(value.named_parameters()), **dict(value.named_buffers()), **beside}
    if is_item:
        return None
    for cls, kind in ((Optimizer, "optimizer"), (LRScheduler, "scheduler"), (torch.amp.GradScaler, "scaler")):
        if isinstance(value, cls):
            return kind, value.state_dict()
    if isinstance(value, DataLoader):
        names = ("dataset", "sampler", "batch_sampler", "generator")
        return "loader", {name: getattr(value, name, None) for name in names}
    if isinstance(value, Sampler):
        return "sampler", {name: one for name, one in vars(value).items() if name != "data_source"}
    if isinstance(value, Dataset) and type(value).__module__.partition(".")[0] == "torch":
        return "dataset", {name: one for name, one in vars(value).items() if isinstance(one, Dataset)}
    return None


def parts(item: Any) -> Iterator[Any]:
    """Nothing: modules within a module are looked into with it."""
    return iter(())


class Settings:
    """What is set for all of PyTorch, and changes what is computed."""

    def read(self) -> Mapping[str, Any]:
        """Expression -> value."""
        return {
            "torch.get_default_dtype()": str(torch.get_default_dtype()),
            "torch.get_num_threads()": torch.get_num_threads(),
            "torch.is_grad_enabled()": torch.is_grad_enabled(),
            "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
            "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        }


def roots(items: Iterable[Any]) -> Iterator[tuple[str, str, Any]]:
    """See `milepost.auditing.evidence.Framework`."""
    yield "torch", "settings", Settings()


def _beside_state(module: nn.Module) -> dict[str, Any]:
    """What a module has that its ``state_dict`` has not: plain attributes, buffers that are not persistent, which parameters are
    frozen, and what its hooks keep."""
    found: dict[str, Any] = {"requires_grad": {name: one.requires_grad for name, one in module.named_parameters()}}
    for path, part in module.named_modules():
        under = f"{path}." if path else ""
        names = part._non_persistent_buffers_set
        found |= {under + name: part._buffers[name] for name in sorted(names)}
        found |= {under + name: one for name, one in vars(part).items() if name not in _NOT_STATE and not callable(one)}
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values(), *part._backward_hooks.values()]
        if hooks:
            found[f"{under}hooks"] = hooks
    return found


class _Read:
    """An iterator of a loader that tells what it hands out; in everything else it is that iterator."""

    def __init__(self, inner: Iterator[Any], tell: Callable[[Any], None]) -> None:
        self._inner, self._tell = inner, tell

    def __iter__(self) -> _Read:
        return self

    def __next__(self) -> Any:
        batch = next(self._inner)
        self._tell(batch)
        return batch

    def __len__(self) -> int:
        return len(self._inner)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def is_loader(value: object) -> bool:
    """Whether `value` reads with worker processes, if it is told to."""
    return isinstance(value, DataLoader)


def set_workers(count: int) -> None:
    """Every `DataLoader`, those that are there and those to come, has `count` workers."""
    make = DataLoader.__init__

    def __init__(self: DataLoader[Any], *arguments: Any, **options: Any) -> None:  # noqa: N807
        make(self, *arguments, **options)
        _set_workers(self, count)

    DataLoader.__init__ = __init__  # type: ignore[method-assign]
    for one in gc.get_objects():
        if issubclass(type(one), DataLoader):
            _set_workers(one, count)


def _set_workers(loader: DataLoader[Any], count: int) -> None:
    # Past the guard of the class, which lets none of them be changed by assignment.
    ahead = (loader.prefetch_factor or 2) if count else None
    vars(loader).update(num_workers=count, prefetch_factor=ahead, persistent_workers=False)


def _is_keras(frame: FrameType) -> bool:
    """Whether Keras reads a loader, for ``fit``: what it trains on is seen there."""
    return str(frame.f_globals.get("__name__")).startswith("keras.")


def watch_loaders(tell: Callable[[str, Any], None]) -> None:
    """From now on `tell` where (``train.py:31``) a `DataLoader` is read past milepost, and each of its batches."""
    iterate = DataLoader.__iter__

    def __iter__(self: DataLoader[Any]) -> Any:  # noqa: N807
        inner = iterate(self)
        caller = sys._getframe(1)
        file = caller.f_code.co_filename
        if file.startswith((_HERE, str(Path(torch.__file__).parent))) or _is_keras(caller):
            return inner
        place = f"DataLoader read at {Path(file).name}:{caller.f_lineno}"
        return _Read(inner, lambda batch: tell(place, batch))

    DataLoader.__iter__ = __iter__  # type: ignore[method-assign]
