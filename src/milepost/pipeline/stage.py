"""Staging: from live tensors to file images in host memory.

By overlap: tensors that only an optimizer step changes are noted and copied by a thread during the next forward and
backward pass; a
guard lets the next optimizer step wait for what is left. By copy: everything at once, while the trainer waits. By stream: as
by copy, but block by block into little memory, while the writer writes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from milepost.core.adapter import LeafInfo
from milepost.core.layout import Layout, plan
from milepost.core.manifest import Tensor
from milepost.folder.snapshot import IO_BLOCK, Position, Snapshot, StagedFile, TornSnapshot
from milepost.pipeline.images import Image, Leaf, Pool, Stream
from milepost.storage.pages import Pages


@dataclass(frozen=True)
class Captured:
    """A state as capture found it: for each item its structure (plain values are copies already) and its live tensors."""

    position: Position
    metrics: Mapping[str, float]
    items: Mapping[str, Any]
    leaves: Mapping[str, Sequence[Leaf]]
    stems: Mapping[str, str]
    written_by: Mapping[str, Any]


class _Plan(NamedTuple):
    """What depends on names, dtypes and shapes only, and so is the same from save to save."""

    leaves: tuple[list[str], list[LeafInfo], list[bool]]
    """Paths, what was there, whether it was trained: as long as these are the same objects, so is all the rest."""
    signature: tuple[object, ...]
    layout: Layout
    order: tuple[int, ...]
    records: dict[str, Tensor]


class Staged:
    """A snapshot being staged.

    Args:
        intact: asked once all is copied: False if the live tensors moved meanwhile.
    """

    def __init__(self, images: Sequence[Image], intact: Callable[[], bool]) -> None:
        self._images, self._intact = images, intact
        self._finished = threading.Event()
        self._problem: BaseException | None = None
        self.seconds = 0.0
        """Time that copying took, off the training thread."""

    @property
    def done(self) -> bool:
        """Whether nothing reads the live tensors any more."""
        return self._finished.is_set()

    @property
    def torn(self) -> bool:
        """Whether the live tensors moved while they were copied."""
        return isinstance(self._problem, TornSnapshot)

    def wait(self) -> None:
        """Block until nothing reads the live tensors any more."""
        self._finished.wait()

    def settle(self) -> None:
        """Wait until all is copied. Raises what went wrong: `TornSnapshot`, or what copying raised."""
        self._finished.wait()
        if self._problem is not None:
            raise self._problem

    def run(self) -> None:
        """Copy what was deferred. Raises nothing: `settle` does."""
        started = time.perf_counter()
        try:
            for image in self._images:
                image.stage()
            if not self._intact():
                raise TornSnapshot("weights changed while they were copied, outside an optimizer step")
        except BaseException as problem:  # noqa: BLE001 - handed to whoever waits for the copy
            self._problem = problem
            for image in self._images:
                image.give_up(problem)
        finally:
            self.seconds = time.perf_counter() - started
            self._finished.set()


class Stager:
    """Stages captured states of one run, one at a time.

    Args:
        max_memory: bytes of host memory that images may take; None for as much as the state needs.
    """

    def __init__(self, max_memory: int | None = None) -> None:
        self.max_memory = max_memory
        self._pool = Pool()
        self._plans: dict[str, _Plan] = {}
        self._jobs: queue.SimpleQueue[Staged | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def plan(self, captured: Captured) -> int:
        """Lay out the files of a state; returns the bytes that images of all of them take."""
        for item, leaves in captured.leaves.items():
            self._plan(item, leaves)
        return sum(self._plans[item].layout.size for item in captured.leaves)

    def stage(self, captured: Captured, intact: Callable[[], bool]) -> tuple[Snapshot, Staged]:
        """Begin to stage `captured`; returns when only deferred leaves are left to copy (by a thread).

        The images stay valid until the next call: what they were staged for must be written by then.
        """
        needed = self.plan(captured)
        records = self._records(captured)
        if self.max_memory is not None and needed > self.max_memory:
            memory = self._pool.take("stream", Stream.BLOCKS * IO_BLOCK)
            self._pool.forget(["stream"])
            streams = tuple(self._stream(item, leaves, memory) for item, leaves in captured.leaves.items())
            staged = Staged((), intact)
            staged.run()
            return self._snapshot(captured, records, streams, staged), staged
        images = [self._image(item, leaves) for item, leaves in captured.leaves.items()]
        self._pool.forget(list(captured.leaves))
        for image in images:
            image.begin()
        staged = Staged(images, intact)
        if any(leaf.deferred for leaves in captured.leaves.values() for leaf in leaves):
            self._start_thread()
            self._jobs.put(staged)
        else:
            staged.run()
        return self._snapshot(captured, records, tuple(images), staged), staged

    def prepare(self, captured: Captured) -> None:
        """Get the memory for states like `captured` ready in the background, so that the first snapshot is as quick
        as the others."""
        needed = self.plan(captured)
        if self.max_memory is not None and needed > self.max_memory:
            return
        memories = [self._pool.take(item, self._plans[item].layout.size) for item in captured.leaves]

        def touch() -> None:
            for memory in memories:
                memory.touch()

        threading.Thread(target=touch, name="milepost-prepare", daemon=True).start()

    def room(self, name: str, size: int) -> memoryview:
        """Memory for reading a file of a checkpoint; the next snapshot uses the same memory again."""
        return self._pool.take(name.removesuffix(".safetensors"), size).view[:size]

    def streams(self, captured: Captured) -> bool:
        """Whether `captured` is too large for the allowed memory, so that the trainer must wait for the writer."""
        return self.max_memory is not None and self.plan(captured) > self.max_memory

    def close(self) -> None:
        """End the thread, after what it is doing."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _start_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="milepost-stage", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (staged := self._jobs.get()) is not None:
            staged.run()

    def _plan(self, item: str, leaves: Sequence[Leaf]) -> _Plan:
        known = self._plans.get(item)
        seen = [leaf.path for leaf in leaves], [leaf.info for leaf in leaves], [leaf.trained for leaf in leaves]
        if known is not None and known.leaves == seen:
            return known
        ties = _ties(leaves)
        signature: tuple[object, ...] = tuple(
            (leaf.path, leaf.trained, *leaf.info[:3], leaf.info.strides, leaf.info.device, leaf.info.variant)
            for leaf in leaves
        )
        signature += tuple(ties.items())
        if known is not None and known.signature == signature:
            self._plans[item] = known._replace(leaves=seen)
            return known
        keys = {leaf.path: key_of(item, leaf.path) for leaf in leaves}
        metadata = {keys[path]: keys[first] for path, first in ties.items()}
        kinds = {leaf.info.type for leaf in leaves}
        metadata["format"] = {"torch": "pt"}.get(kinds.pop(), "np") if len(kinds) == 1 else "np"
        own = {keys[leaf.path]: index for index, leaf in enumerate(leaves) if leaf.path not in ties}
        layout = plan(
            ((keys[leaf.path], leaf.info.dtype, leaf.info.shape) for leaf in leaves if leaf.path not in ties), metadata
        )
        records = {
            leaf.path: Tensor(
                leaf.info.dtype.name,
                leaf.info.shape,
                strides=leaf.info.strides,
                same_as=ties.get(leaf.path),
                type=leaf.info.type,
                device=leaf.info.device,
                trained=leaf.trained,
                variant=leaf.info.variant,
            )
            for leaf in leaves
        }
        made = _Plan(seen, signature, layout, tuple(own[entry.key] for entry in layout.entries), records)
        self._plans[item] = made
        return made

    def _image(self, item: str, leaves: Sequence[Leaf]) -> Image:
        plan = self._plans[item]
        return Image(
            item, plan.layout, [leaves[index] for index in plan.order], self._pool.take(item, plan.layout.size)
        )

    def _stream(self, item: str, leaves: Sequence[Leaf], memory: Pages) -> Stream:
        plan = self._plans[item]
        return Stream(item, plan.layout, [leaves[index] for index in plan.order], memory)

    def _records(self, captured: Captured) -> dict[str, Tensor]:
        records: dict[str, Tensor] = {}
        for item in captured.leaves:
            records |= self._plans[item].records
        return records

    def _snapshot(
        self, captured: Captured, records: Mapping[str, Tensor], files: tuple[StagedFile, ...], staged: Staged
    ) -> Snapshot:
        return Snapshot(
            captured.position,
            captured.metrics,
            captured.items,
            records,
            files,
            captured.stems,
            captured.written_by,
            staged.settle,
        )


def key_of(item: str, path: str) -> str:
    """The key in the item's file for the tensor at `path`: its path below the item, or the item's name if it is the item."""
    return path[len(item) + 1 :] or item


def _ties(leaves: Sequence[Leaf]) -> dict[str, str]:
    """Path of each tied leaf -> path of the first leaf that is the same memory."""
    first: dict[object, str] = {}
    ties = {}
    for leaf in leaves:
        if leaf.info.memory is not None:
            kept = first.setdefault(leaf.info.memory, leaf.path)
            if kept is not leaf.path:
                ties[leaf.path] = kept
    return ties
