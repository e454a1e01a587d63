"""What a checkpoint is good for: weights alone, a whole model, or a state from which training goes on, and what that lacks.

Told from names: libraries agree on few, and a script may choose any. What is not recognised counts as weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from milepost.core.source import TensorSource

Part = Literal["weights", "architecture", "optimizer", "schedule", "random state", "data position", "step"]
What = Literal["weights", "model", "state", "part", "values"]
"""`part`: what belongs to weights that are elsewhere; `values`: no tensors."""


class Holding(NamedTuple):
    """What a source holds, which parts of a training that is, and which ones going on would need too. `own`: milepost wrote it,
    and knows that what it put there is all there is."""

    what: What
    parts: tuple[Part, ...]
    lacks: tuple[Part, ...]
    own: bool = False

    def __str__(self) -> str:
        parts = _list(self.parts)
        match self.what:
            case "values":
                return "plain values, no tensors"
            case "weights":
                return "weights only; no optimizer: training starts anew from them"
            case "model":
                return "a whole model, architecture and weights; no optimizer: training starts anew from it"
            case "part":
                return f"{parts}; no weights: a part of a checkpoint"
        if self.lacks:
            missing = ", ".join(f"no {part}" for part in self.lacks)
            return f"a resumable state: {parts}; {missing}: training continues, not exactly"
        sure = "continues exactly" if self.own else "may continue exactly"
        return f"a resumable state: {parts}: training {sure}"


_PARTS: dict[Part, str] = {
    "optimizer": (
        r"(.*_)?optim(izer)?s?(_(state|weights|dict|vars|model_states).*)?|optimizer.*|opt(_?states?)?|_?optimizer_slots?"
        r"|exp_avg(_sq)?|momentum_buffer|adam(w|_\d)?|rmsprop(_\d)?|momentum"
    ),
    "schedule": r"(.*_)?(lr_?)?sched(uler)?s?(_states?|_state_dict)?",
    "random state": r"(.*_)?rngs?(_.*)?|random_(states?|number_generator)(_.*)?|seed_generators?(_state)?|prng.*",
    "data position": (
        r"(.*_)?data_?loaders?(_.*)?|samplers?(_.*)?|data_?iter(ator)?(_.*)?|iterator|loops|dl_state_dict(_\d+)?|data_position"
        r"|trainer_state"  # with which Trainer skips the batches that were
    ),
    "step": r"(global_|train_)?steps?|epochs?|(_?iterations?)|iter|save_counter",
}
_RULES = [(part, re.compile(pattern, re.IGNORECASE)) for part, pattern in _PARTS.items()]
_OWN: dict[str, Part] = {"rng": "random state", "data": "data position", "progress": "step"}
"""What milepost keeps for itself, below ``run``."""
_WHOLE = re.compile(r"ONNX|SavedModel|TorchScript|GGUF|a Keras model|Hugging Face", re.IGNORECASE)
"""Formats that have the architecture with the weights."""
_ORDER: tuple[Part, ...] = (
    "architecture", "weights", "optimizer", "schedule", "random state", "data position", "step"
)  # fmt: skip


def holding(source: TensorSource) -> Holding:
    """What `source` holds, by the paths of what is in it.

    Example:
        >>> str(holding(milepost.open("train.pt")))
        'a resumable state: weights, optimizer and step; no random state, no data position: training continues, not exactly'
    """
    found: set[Part] = {"step"} if "step" in source.metadata or "epoch" in source.metadata else set()
    ours = _is_ours(source)
    for path in (*source.specs, *source.plain):
        part = part_of(path, source)
        if part is not None:
            found.add(part)
        elif path in source.specs and not (ours and path.startswith("run/")):
            found.add("weights")
    if "weights" in found and _is_whole(source):
        found.add("architecture")
    parts = tuple(part for part in _ORDER if part in found)
    if not source.specs and not found - {"step"}:
        return Holding("values", parts, ())
    if "weights" not in found:
        return Holding("part", parts, ("weights",))
    if "optimizer" in found or (ours and "random state" in found):  # whatever a script calls what it steps with
        needed: tuple[Part, ...] = ("random state", "data position")
        return Holding("state", parts, tuple(part for part in needed if part not in found), ours)
    return Holding("model" if "architecture" in found else "weights", parts, ("optimizer",))


def part_of(path: str, source: TensorSource) -> Part | None:
    """Which part of a training is at `path` of `source`: that of its first level that has a name for one; None for what may be
    weights."""
    if path.startswith("run/") and _is_ours(source):
        return _OWN.get(path.split("/")[1])
    levels = path.split("/")
    for level in levels:
        part = _named(level.partition("~")[0].partition(".")[0])
        if part is not None and (part != "step" or level is levels[-1]):  # a count is at the end of a path
            return part
    return None


@lru_cache(maxsize=4096)  # levels have few names, if one leaves out what follows a dot
def _named(level: str) -> Part | None:
    return next((part for part, pattern in _RULES if pattern.fullmatch(level)), None)


def _is_ours(source: TensorSource) -> bool:
    return "attempt" in source.metadata


def _is_whole(source: TensorSource) -> bool:
    """Whether the architecture is there too: by the format, by the class of a model in a pickle, or because milepost was told."""
    if _WHOLE.search(str(source.metadata.get("format", ""))):
        return not str(source.metadata["format"]).startswith("weights")
    return any(path in ("~class", "model/~class", "module/~class") for path in source.plain)


def _list(parts: Sequence[str]) -> str:
    *most, last = parts or ("nothing",)
    return f"{', '.join(most)} and {last}" if most else last
