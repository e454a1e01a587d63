"""What ``milepost audit`` has to know about PyTorch, mostly with ``--saver torch``: what a script asks of it, and the state behind
its objects."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data import DataLoader

import milepost

_SKIPPED = (str(Path(milepost.__file__).parent), str(Path(torch.__file__).parent))
_BOOKKEEPING = {"_step_count", "_is_initial", "_get_lr_called_within_step", "verbose"}
"""Of schedulers: nothing follows from it."""

Owned = tuple[str, Any]
"""The kind of an object, and the object."""


def watch_steps(before: Callable[[Any, bool], None], after: Callable[[Any, bool], None]) -> None:
    """Call `before` and `after` around every step of any optimizer, with it and whether the step computes gradients itself (by a
    closure); unless the step is compiled."""
    for register, call in ((register_optimizer_step_pre_hook, before), (register_optimizer_step_post_hook, after)):
        register(_outside_of_graphs(call))


def _outside_of_graphs(call: Callable[[Any, bool], None]) -> Callable[..., None]:
    def hook(optimizer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if not torch.compiler.is_compiling():  # what is traced would become part of the graph
            call(optimizer, any(callable(one) for one in (*arguments[1:], *options.values())))

    return hook


def _nothing(*_: Any) -> None:
    """Nobody is told."""


def redirect_files(
    where: Callable[[Any, bool], Any],
    saved: Callable[[Any, Any], None] = _nothing,
    loaded: Callable[[Any], None] = _nothing,
) -> None:
    """Have ``torch.save`` and ``torch.load`` ask where a file is.

    Args:
        where: given what the script named, and whether it is written, says what to use.
        saved: is told of an object and the file it was written to.
        loaded: is told of a file that is about to be read.
    """
    save, load = torch.save, torch.load

    def _save(obj: object, f: Any, *arguments: Any, **options: Any) -> None:
        save(obj, where(f, True), *arguments, **options)
        saved(obj, f)

    def _load(f: Any, *arguments: Any, **options: Any) -> Any:
        loaded(f)
        return load(where(f, False), *arguments, **options)

    for module in (torch, torch.serialization):
        module.save, module.load = _save, _load  # type: ignore[attr-defined]


class Pass:
    """One time through a `DataLoader`: by which loop, how many batches came of how many, and whether it is over."""

    def __init__(self, loop: str, inner: Any, length: int | None, tell: Callable[[Pass, Any], None]) -> None:
        self.loop, self.length, self.count, self.over = loop, length, 0, False
        self.epoch = 0
        self._inner, self._tell = inner, tell

    def __iter__(self) -> Pass:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._inner)
        except StopIteration:
            self.over = True
            raise
        self.count += 1
        self._tell(self, batch)
        return batch

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def watch_passes(began: Callable[[Pass], None], tell: Callable[[Pass, Any], None]) -> None:
    """From now on call `began` when a loop over a `DataLoader` begins, and `tell` with each of its batches."""
    iterate = DataLoader.__iter__

    def __iter__(self: DataLoader[Any]) -> Any:  # noqa: N807
        inner = iterate(self)
        caller = sys._getframe(1)
        file = caller.f_code.co_filename
        if file.startswith(_SKIPPED):
            return inner
        try:
            length: int | None = len(self)
        except TypeError:  # an iterable dataset
            length = None
        one = Pass(f"DataLoader read at {Path(file).name}:{caller.f_lineno}", inner, length, tell)
        began(one)
        return one

    DataLoader.__iter__ = __iter__  # type: ignore[method-assign]


def parameters_of(optimizer: Any) -> list[Any]:
    """What `optimizer` trains, in its order."""
    return [one for group in optimizer.param_groups for one in group["params"]]


def around(optimizer: Any) -> list[Owned]:
    """The modules that hold parameters of `optimizer`, without parts of one another, and the schedulers and scalers there are:
    for scripts whose own variables do not lead to them. It looks at every object of the process."""
    trained = {id(one) for one in parameters_of(optimizer)}
    modules, others = [], []
    for one in gc.get_objects():
        cls = type(one)  # not isinstance: that asks proxies
        if issubclass(cls, nn.Module):
            if any(id(parameter) in trained for parameter in one.parameters()):
                modules.append(one)
        elif issubclass(cls, LRScheduler) and getattr(one, "optimizer", None) is optimizer:
            others.append(("scheduler", one))
        elif issubclass(cls, torch.amp.GradScaler):
            others.append(("scaler", one))
    parts = {id(part) for one in modules for part in one.modules() if part is not one}
    return [*(("module", one) for one in modules if id(one) not in parts), *others]


def has_state(value: Any) -> bool:
    """Whether `state_of` knows what to do with an object: those of other frameworks go by the same kinds."""
    return callable(getattr(value, "state_dict", None))


def state_of(kind: str, value: Any) -> Mapping[str, Any]:
    """What a checkpoint has to hold of an object, as far as neither forward nor backward change it."""
    if isinstance(value, nn.Module):
        return dict(value.named_parameters())
    state: Mapping[str, Any] = value.state_dict()
    return _without_bookkeeping(state) if kind == "scheduler" else state


def _without_bookkeeping(state: Mapping[str, Any]) -> dict[str, Any]:
    """Of a scheduler, and of those that it consists of."""
    found = {name: one for name, one in state.items() if name not in _BOOKKEEPING}
    parts = found.get("_schedulers")
    return found if parts is None else {**found, "_schedulers": [_without_bookkeeping(part) for part in parts]}


def made_of(value: Any, trained: Collection[int]) -> Mapping[str, Any]:
    """What forward and backward change in a module: buffers, and (of those in `trained`) gradients as ``weight.grad``."""
    if not isinstance(value, nn.Module):
        return {}
    own = {name: one for name, one in value.named_parameters() if id(one) in trained}
    gradients = {f"{name}.grad": one.grad for name, one in own.items() if one.grad is not None}
    return {**dict(value.named_buffers()), **gradients}


def parameter_ids(modules: Iterable[Any]) -> set[int]:
    """Of all parameters of these modules."""
    return {id(one) for module in modules if isinstance(module, nn.Module) for one in module.parameters()}


def random_state() -> Any:
    """What a script would save of the global random state."""
    return torch.get_rng_state()
