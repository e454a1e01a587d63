"""PyTorch's loaders as feeds (see `milepost.training.feeds`).

A `DataLoader` over a map-style dataset continues exactly: the same batches in the same order with the same
augmentation, whatever the number of workers before and after, and nothing is loaded that was done. The order is that
of plain PyTorch, bit for bit, and the training's own random draws stay what they were; what augmentation draws does
not, since each batch is seeded by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate, default_convert

from milepost.core.leaves import digest
from milepost.errors import LoaderError
from milepost.torch.fetch import Fetch, Unopened
from milepost.torch.loader_order import Order
from milepost.torch.loader_state import LoaderStateFeed, is_torchdata
from milepost.torch.loader_workers import copy_of, shield, stop
from milepost.training.feeds import Feed, SequenceFeed, keeps_state, refusal
from milepost.training.feeds_checks import Position, capture_generators, check, length_of
from milepost.training.feeds_iterable import ReplayFeed

__all__ = ["MapFeed", "feed_for", "shield"]


def feed_for(loader: object, *, replay: bool) -> Feed | None:
    """The feed for a loader of PyTorch or torchdata; None for what is none of them.

    Raises:
        LoaderError: a loader whose position cannot be restored, and no `replay`.

    """
    if isinstance(loader, torch.Tensor):
        return SequenceFeed(loader)  # type: ignore[arg-type]
    if not isinstance(loader, DataLoader):
        return LoaderStateFeed(loader) if keeps_state(loader) and not replay else None
    ours = type(loader).__iter__ is DataLoader.__iter__
    if not isinstance(loader.dataset, IterableDataset) and (ours or is_torchdata(loader)):
        return MapFeed(loader)
    if replay:
        return ReplayFeed(shield(loader), facts={"workers": loader.num_workers})
    if keeps_state(loader):
        return LoaderStateFeed(shield(loader))
    if not ours:
        raise refusal(loader, "it has an __iter__ of its own")
    if loader.num_workers == 0 and keeps_state(loader.dataset):
        return LoaderStateFeed(loader, loader.dataset)
    raise refusal(loader, f"{type(loader.dataset).__qualname__} is an IterableDataset")


# -- map-style ----------------------------------------------------------------------


class _Indices:
    """Stands in for the sampler of all passes: gives the order of the present one."""

    order: Order

    def __iter__(self) -> Order:
        return self.order


class MapFeed:
    """Reads a copy of `loader` whose sampler, dataset and collate function are stood in for by `Order` and `Fetch`.

    The loader itself is never iterated. Workers start with the first batch of a pass; persistent ones stay for the
    next.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader: Any = loader
        self._where = f"DataLoader over {type(loader.dataset).__qualname__}"
        self.length = length_of(loader)
        self.notes: list[str] = []
        batched = loader.batch_sampler is not None
        self._indices = _Indices()
        stand_ins: dict[str, Any] = {
            "batch_sampler" if batched else "sampler": self._indices,
            "in_order": True,
        }
        self._seeded, self._salt = not _draws_nothing(loader), 0
        if self._seeded:
            fetch = Fetch(loader.dataset, loader.collate_fn, batched=batched, inside=loader.num_workers == 0)
            stand_ins |= {"dataset": Unopened(), "collate_fn": fetch}
            found = fetch.find()
            self._salt = digest(capture_generators(found))  # two seeds given to a transform shall not augment alike
            if not found.complete:
                self.notes.append(
                    f"{self._where}: too large to be searched for random generators of its own; if it draws from one, "
                    "augmentation differs after a restart"
                )
        if not loader.in_order and loader.num_workers:
            self.notes.append(f"{self._where}: in_order=False is not heeded, batches come in order")
        self._copy = copy_of(loader, DataLoader if is_torchdata(loader) else type(loader), **stand_ins)
        self._order: Order | None = None
        self._iterator: Any = None
        self._open = False

    def begin(self, saved: Mapping[str, Any] | None) -> None:
        """See `Feed.begin`."""
        self.close()
        order = Order(self._loader, salt=self._salt, tagged=self._seeded)
        if saved is None:
            order.begin()
        else:
            hint = "call set_epoch before run.batches" if order.epochs else None
            check(saved, self._facts(order, over=saved["over"]), self._where, hint)
            order.resume(saved)
            self._salt = order.salt
        self._order = self._indices.order = order
        self._copy.generator = order.twin
        self._open = not order.over

    def next(self) -> object:
        """See `Feed.next`."""
        if not self._open or self._order is None:
            raise StopIteration
        try:
            if self._iterator is None:
                self._iterator = iter(self._copy)
            batch = next(self._iterator)
        except StopIteration:
            self._order.over = True
            self._drop()
            raise
        except BaseException:
            self._drop()
            raise
        self._order.hand_out()
        return batch

    def position(self, done: int) -> Position:
        """See `Feed.position`."""
        if self._order is None:
            raise LoaderError("no pass has begun, so there is no position in it", where=self._where)
        return {"facts": self._facts(self._order, over=self._order.over), **self._order.position(done)}

    def close(self) -> None:
        """See `Feed.close`."""
        if self._open and self._order is not None:
            self._order.abandon()
            self._order.over = True
        self._drop()

    def _drop(self) -> None:
        self._open = False
        iterator, self._iterator = self._iterator, None
        if not self._copy.persistent_workers:
            stop(iterator)

    def _facts(self, order: Order, *, over: bool) -> dict[str, object]:
        loader = self._loader
        of_batches = loader if loader.batch_size is not None else loader.batch_sampler
        return {
            "feed": "map-style",
            "dataset length": length_of(loader.dataset),
            "batch size": getattr(of_batches, "batch_size", None),
            "drop last": getattr(of_batches, "drop_last", None),
            "sampler": order.name,
            "epoch of the sampler": [] if over else order.epochs,  # it may be set to the next one already
            "generators of the sampler": order.paths,
        }


def _draws_nothing(loader: DataLoader[Any]) -> bool:
    dataset = loader.dataset
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return type(dataset) is TensorDataset and loader.collate_fn in (default_collate, default_convert)
