"""What the folder layer is given to write: a state in host memory, or on its way there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from milepost.core.boxes import Box
from milepost.core.layout import Layout
from milepost.core.manifest import Tensor

IO_BLOCK = 16 << 20
"""Bytes per write and read: large enough for full speed without the page cache, small enough to start early."""


class Piece(NamedTuple):
    """What one entry of a file holds: the tensor at `path`, or a `box` of it."""

    path: str
    box: Box | None = None


class StagedFile(Protocol):
    """The image of one file."""

    item: str
    layout: Layout
    pieces: tuple[Piece, ...]
    """What each entry of `layout` holds."""

    def blocks(self) -> Iterator[tuple[int, memoryview]]:
        """The whole image in order, as (offset, bytes): offsets are multiples of `IO_BLOCK`, memory is page-aligned, and
        the last block is longer than the image by up to a page. Waits for bytes that are not staged yet; raises
        `TornSnapshot` if they never will be. Can be called again until the snapshot is released. A block is valid until
        two more have been asked for."""


class TornSnapshot(Exception):  # noqa: N818 - not an error: the state changed while it was being copied, and is taken again
    """The live state changed while it was staged; the snapshot must be thrown away whole."""


@dataclass(frozen=True)
class Position:
    """Where in training a snapshot was taken."""

    step: int
    epoch: int = 0
    batch: int = 0
    phase: str = "in-epoch"


@dataclass(frozen=True)
class Snapshot:
    """A captured state: plain values already copied, tensors staged or being staged.

    `tensors` are complete but for their shards. `stems` maps items to file names. `settle` waits until the state is
    wholly staged and
    raises (`TornSnapshot`, or what copying raised) if it never will be: nothing may be published before it returned.
    """

    position: Position
    metrics: Mapping[str, float]
    items: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    files: tuple[StagedFile, ...]
    stems: Mapping[str, str]
    written_by: Mapping[str, Any] = field(default_factory=dict)
    settle: Callable[[], None] = lambda: None
