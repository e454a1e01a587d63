"""Loaders of PyTorch and torchdata that continue through a state of their own."""

from __future__ import annotations

from typing import Any

import torch

from milepost.torch.loader_workers import stop
from milepost.training.feeds_checks import Position
from milepost.training.feeds_iterable import StatefulFeed


def is_torchdata(loader: object) -> bool:
    """Whether `loader` iterates as torchdata's `StatefulDataLoader` does."""
    return getattr(type(loader).__iter__, "__module__", "").startswith("torchdata.stateful_dataloader.")  # type: ignore[attr-defined]


class LoaderStateFeed(StatefulFeed):
    """A `StatefulFeed` that makes tensors in the state plain, ends workers, and knows when a loader is at its end.

    Args:
        loader: what is read; it has the state unless `holder` is given.
        holder: the dataset that has the state.

    """

    def __init__(self, loader: Any, holder: object = None) -> None:
        super().__init__(loader, holder=holder)
        self._iterable: Any = loader
        self.notes.append(f"{self._where}: continues through its own state_dict, and is as exact as that is")
        if getattr(loader, "num_workers", 0):
            self.notes.append(f"{self._where}: what its workers draw at random is not repeated after a restart")

    def position(self, done: int) -> Position:
        """See `Feed.position`."""
        position = super().position(done)
        # After a last batch that is not full the dataset's iterator has ended, which its state need not say.
        fetcher = getattr(self._iterator, "_dataset_fetcher", None)
        return {**position, "over": self._over or bool(getattr(fetcher, "ended", False))}

    def _state(self) -> object:
        return pack(super()._state())

    def _load(self, state: Any) -> Any:
        renews = getattr(self._iterable, "restart_on_stop_iteration", False)
        if renews:  # torchdata.nodes.Loader: would give the next pass in place of the rest of one that has none
            self._iterable.restart_on_stop_iteration = False
        try:
            return super()._load(unpack(state))
        finally:
            if renews:
                self._iterable.restart_on_stop_iteration = True

    def _load_end(self, state: Any) -> None:
        if not is_torchdata(self._iterable):
            super()._load_end(unpack(state))
            return
        # The loader's iterators are made here, lest it draws a base seed for them when the next pass begins.
        self._iterator = self._load(state)
        if self._iterable.num_workers == 0:  # workers have copies of the dataset, which end with the pass
            for _ in self._iterable.dataset:  # as in the base class, past a fetcher that knows that it ended
                self._iterator = self._load(state)
                break
        self._leave()

    def _leave(self) -> None:
        if not getattr(self._iterable, "persistent_workers", False):
            stop(self._iterator)
        super()._leave()


_TENSOR = "torch.Tensor"


def pack(state: Any) -> Any:
    """`state` with arrays in place of tensors."""
    if isinstance(state, torch.Tensor):
        return {_TENSOR: state.detach().cpu().numpy().copy()}
    if isinstance(state, dict):
        return {key: pack(value) for key, value in state.items()}
    return type(state)(map(pack, state)) if type(state) in (list, tuple) else state


def unpack(state: Any) -> Any:
    """Undoes `pack`."""
    if isinstance(state, dict):
        if state.keys() == {_TENSOR}:
            return torch.from_numpy(state[_TENSOR].copy())
        return {key: unpack(value) for key, value in state.items()}
    return type(state)(map(unpack, state)) if type(state) in (list, tuple) else state
