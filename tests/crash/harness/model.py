"""The trivial model that the state machine compares a run with: what may be found, and which attempt continues what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from harness.driving import Key, State, read, same_bits

from milepost.core.manifest import Summary
from milepost.folder.checkpoint import Checkpoint
from milepost.folder.retention import Keep


class Content(NamedTuple):
    """A state in short: a version for each tensor, whether a trained one holds a NaN, and the metric."""

    frozen: int = 0
    head: int = 0
    moment: int = 0
    nan: bool = False
    loss: float = 1.0

    @property
    def good(self) -> bool:
        """Whether its trained floats are finite."""
        return not self.nan

    def state(self) -> State:
        """The state, made anew."""
        head = np.arange(300, dtype=np.float32) - self.head
        if self.nan:
            head[self.head % 300] = np.nan
        return {
            "model": {"frozen": np.arange(2048, dtype=np.float32) * (self.frozen + 1), "head": head},
            "optimizer": {"moment": np.full(1100, self.moment / 3, np.float64)},
            "vars": {"versions": (self.frozen, self.head, self.moment)},
        }

    def equals(self, tensors: Mapping[str, npt.NDArray[Any]], plain: Mapping[str, Any]) -> bool:
        """Whether what a checkpoint holds is this, bit for bit."""
        state = self.state()
        arrays = {f"{item}/{name}": array for item in ("model", "optimizer") for name, array in state[item].items()}
        versions = tuple(plain[f"vars/versions/{index}"] for index in range(3))
        return (
            versions == state["vars"]["versions"]
            and arrays.keys() == tensors.keys()
            and all(same_bits(arrays[path], tensors[path]) for path in arrays)
        )

    def is_in(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint holds this."""
        return self.is_told_by(checkpoint.manifest.summary) and self.equals(read(checkpoint), checkpoint.plain)

    def is_told_by(self, summary: Summary) -> bool:
        """Whether a summary is of this."""
        return (summary.good, summary.metric("loss")) == (self.good, self.loss)

    def is_state(self, state: State) -> bool:
        """Whether a restored state is this."""
        mine = self.state()
        return mine.keys() == state.keys() and all(
            same_bits(mine[item][name], state[item][name]) for item in ("model", "optimizer") for name in mine[item]
        )


class Model:
    """What is known of a run without looking at it.

    `allowed` holds for each key what may be found there, None for nothing: one content for what was acknowledged, two during
    a save, content or None for what retention may take. `volatile` is what else may be found there after power loss: what a
    killed job did need not be durable. `parents` are the attempts that began, with what each continues.
    """

    def __init__(self) -> None:
        self.allowed: dict[Key, set[Content | None]] = {}
        self.volatile: dict[Key, set[Content | None]] = {}
        self.parents: dict[int, Key | None] = {}
        self.tags: dict[str, Key] = {}

    def content(self, key: Key) -> Content:
        """What is certainly at `key`."""
        (content,) = self.allowed[key]
        assert content is not None
        return content

    def begin_save(self, key: Key, content: Content) -> None:
        """From now on `content` may be there, or what was there before."""
        self.allowed.setdefault(key, {None}).add(content)

    def acknowledge(self, key: Key, content: Content) -> None:
        """The save returned: nothing else may be there."""
        self.allowed[key] = {content}
        self.volatile.pop(key, None)

    def forget(self, key: Key) -> None:
        """Somebody removed it."""
        del self.allowed[key]
        self.volatile.pop(key, None)

    def may_go(self, keys: Collection[Key]) -> None:
        """Retention may take `keys`."""
        for key in keys:
            self.allowed[key].add(None)

    def settle(self, found: Mapping[Key, Content]) -> None:
        """What was found is what there is, for the time being."""
        for key, allowed in self.allowed.items():
            if len(allowed) > 1:
                self.volatile.setdefault(key, set()).update(allowed)
        self.allowed = {key: {content} for key, content in found.items()}

    def lose_power(self) -> None:
        """What was not durable may be otherwise now."""
        for key, otherwise in self.volatile.items():
            self.allowed.setdefault(key, {None}).update(otherwise)

    def lineage(self, attempt: int | None) -> list[Key]:
        """The keys that `attempt` stands on, newest first."""
        line: list[Key] = []
        bound: float = float("inf")
        while attempt is not None:
            own = [key for key in self.allowed if key.attempt == attempt and key.step <= bound]
            line += sorted(own, reverse=True)
            parent = self.parents.get(attempt)
            attempt, bound = parent if parent is not None else (None, 0)
        return line

    @property
    def newest_attempt(self) -> int | None:
        """The one that `latest` is about."""
        return max(self.parents, default=None)

    def must_stay(self, attempt: int, keep: Keep, current: Collection[Key]) -> set[Key]:
        """What retention by `attempt` must leave. `current` are the keys that stand under their own name."""
        line = self.lineage(attempt)
        good = [key for key in line if self.content(key).good]
        named = [key for key in line if key in current]
        stay = set(named if keep.last is None else named[: keep.last]) | set(good[:1])
        stay |= {key for key in self.tags.values() if key in self.allowed}
        if keep.every_steps is not None:
            stay |= {key for key in named if key.step % keep.every_steps == 0}
        if keep.best_by is not None:
            ranked = sorted((self.content(key).loss, key.step, key) for key in good if key in current)
            stay |= {key for _, _, key in ranked[:1]}
        return stay
