"""When training went wrong: the first of a sequence of checkpoints with a NaN, an infinity or an explosion.

Summaries tell of metrics and of trained tensors that are not finite, at no cost. Whether weights grew tells only a look at all of
them (`Watch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable
from typing import TYPE_CHECKING

from milepost.core import words
from milepost.core.manifest import Summary

if TYPE_CHECKING:
    from milepost.core.source import TensorSource  # numpy, which a listing does without

FACTOR = 10.0
"""A loss this many times its least before, or a weight whose root mean square is this many times that in the checkpoint before, has
exploded."""
ABOVE_ALL = 2.0
"""... if it is so many times the largest root mean square of any weight before, too: what began as zeros may grow."""


def from_summaries(summaries: Iterable[Summary | None]) -> list[tuple[str, ...]]:
    """For each checkpoint, in order, what it is the first to have; None is one that cannot be read."""
    met: set[str] = set()
    least: dict[str, float] = {}
    found = []
    for summary in summaries:
        marks: dict[str, str] = {}
        if summary is not None:
            if not summary.good and "NaN" in (summary.why_not_good or ""):
                marks["values"] = "first NaN or infinity"
            for name in summary.metrics:
                value = summary.metric(name) or 0.0
                if not math.isfinite(value):
                    marks.setdefault("metric", f"first {'NaN' if math.isnan(value) else 'infinity'} in {name}")
                elif "loss" in name.casefold():
                    if 0 < least.get(name, math.inf) * FACTOR <= value:
                        times = words.number(value / least[name])
                        marks.setdefault("explosion", f"first explosion: {name} × {times}")
                    least[name] = min(least.get(name, math.inf), value)
        found.append(tuple(text for kind, text in marks.items() if kind not in met))
        met |= set(marks)
    return found


class Watch:
    """Looks at the values of one checkpoint after the other, the oldest first.

    Weights, and what an optimizer keeps, are looked at for NaN and infinities; weights for explosions. What is the same as in an
    earlier checkpoint by its digest is not read again.
    """

    def __init__(self, on_block: Callable[[str, int], None] = lambda path, nbytes: None) -> None:
        self._on_block = on_block
        self._met: set[str] = set()
        self._known: dict[str, tuple[int, int, float]] = {}
        self._before: dict[str, float] = {}

    def look(self, source: TensorSource) -> tuple[str, ...]:
        """What `source` is the first to have; raises as reading its tensors does."""
        from milepost.ops.holding import part_of

        marks: dict[str, str] = {}
        now: dict[str, float] = {}
        largest = max(self._before.values(), default=0.0)
        trained = _trained(source)
        for path, spec in source.specs.items():
            part = part_of(path, source)
            if (
                not spec.dtype.floating
                or spec.dtype.numpy is None
                or part not in (None, "optimizer")
                or path not in trained
            ):
                continue
            nans, infs, size = self._values(source, path)
            for word, count in (("NaN", nans), ("infinity", infs)):
                if count:
                    marks.setdefault(word, f"first {word}: {path} ({count:,} of {math.prod(spec.shape):,})")
            if part is None:
                now[path] = size
                before = self._before.get(path, 0.0)
                if before and size >= FACTOR * before and size >= ABOVE_ALL * largest:
                    marks.setdefault("explosion", f"first explosion: {path} × {words.number(size / before)}")
        self._before = now
        new = tuple(text for kind, text in marks.items() if kind not in self._met)
        self._met |= set(marks)
        return new

    def _values(self, source: TensorSource, path: str) -> tuple[int, int, float]:
        """NaN, infinities, and the root mean square of the rest."""
        from milepost.ops.stats import Gathered

        digest = source.digest(path)
        if digest is not None and digest in self._known:
            return self._known[digest]
        gathered = Gathered()
        for block in source.blocks(path):
            gathered.add(block)
            self._on_block(path, block.nbytes)
        one = gathered.numbers(path)
        found = one.nans, one.infs, (one.norm or 0.0) / math.sqrt(max(1, one.count))
        if digest is not None:
            self._known[digest] = found
        return found


def _trained(source: TensorSource) -> Container[str]:
    """The paths of the tensors that training moves, as far as that is known."""
    from milepost.ops.refs import own

    checkpoint = own(source)
    tensors = checkpoint.manifest.tensors if checkpoint is not None else {}
    return {path for path, tensor in tensors.items() if tensor.trained} or source.specs
