"""Which checkpoints are kept, and the removal of the others.

Removal never touches the newest good checkpoint, a tagged one, one that cannot be read, or one that another run wrote. A folder is
renamed into the attempt's work folder first and removed there: an attempt that was fenced cannot remove anything any more, and a
crash in the middle leaves rubbish in a place that the next attempt clears.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, NamedTuple

from milepost.errors import MetricError, RunFenced, ScriptError
from milepost.folder import names
from milepost.folder.run import BestBy, Listed, RunFolder
from milepost.folder.tags import Tag

SMALLER_IS_BETTER = ("loss", "error", "err", "perplexity", "ppl", "mse", "mae", "rmse", "nll", "wer", "cer", "fid")
LARGER_IS_BETTER = ("acc", "accuracy", "auc", "f1", "precision", "recall", "bleu", "rouge", "iou", "map", "score",
"r2", "reward", "return")  # fmt: skip


@dataclass(frozen=True)
class Keep:
    """Which checkpoints to keep; everything else is removed after each successful save.

    Args:
        last: so many of the newest; None keeps all.
        best: a metric, or (metric, "min" | "max"): the best checkpoint that has it is kept. The direction is known for
            names that end in loss, error, accuracy and the like; for others it must be said.
        every_steps: keep those at multiples of so many steps, for good.
        independent: so many of the kept checkpoints share no file, so that one rotten block cannot spoil all.

    Raises:
        ScriptError: a number below 1.
        MetricError: the direction of `best` is not known.

    Example:
        >>> Keep(last=3, best="val_loss").best_by
        BestBy(metric='val_loss', mode='min')
    """

    last: int | None = 3
    best: str | tuple[str, str] | None = None
    every_steps: int | None = None
    independent: int = 1

    def __post_init__(self) -> None:
        for name in ("last", "every_steps", "independent"):
            value = getattr(self, name)
            if value is None and name != "independent":
                continue
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ScriptError(
                    f"Keep({name}=...) cannot be that", expected="a whole number of at least 1", found=repr(value)
                )
        self.best_by  # noqa: B018 - an unclear direction is said now, not after the first epoch

    @property
    def best_by(self) -> BestBy | None:
        """Metric and direction, or None."""
        if self.best is None:
            return None
        match self.best:
            case str(metric):
                pass
            case (str(metric), "min" | "max" as mode):
                return BestBy(metric, mode)
            case other:
                raise MetricError(
                    "Keep(best=...) cannot be that", expected="a metric, or (metric, 'min' | 'max')", found=repr(other)
                )
        better = direction(metric)
        if better is None:
            raise MetricError(
                f"is a smaller or a larger {metric!r} better?", hint=f"say it: Keep(best=({metric!r}, 'min'))"
            )
        return BestBy(metric, better)


def direction(metric: str) -> Literal["min", "max"] | None:
    """Which value of a metric is better, as far as its name tells."""
    last_word = metric.casefold().replace("/", "_").replace("-", "_").rpartition("_")[2]
    words = {last_word, last_word.rstrip("0123456789@")}
    if words.intersection(SMALLER_IS_BETTER):
        return "min"
    return "max" if words.intersection(LARGER_IS_BETTER) else None


def best_by(told: str) -> BestBy:
    """What follows ``best=`` in a REF: a metric, and ``:min`` or ``:max`` unless its name tells which is better.

    Raises:
        MetricError: neither does.

    Example:
        >>> best_by("val_loss"), best_by("score2:max")
        (BestBy(metric='val_loss', mode='min'), BestBy(metric='score2', mode='max'))
    """
    metric, _, mode = told.rpartition(":")
    if not metric or mode not in ("min", "max"):
        metric, mode = told, direction(told) or ""
    if not mode:
        raise MetricError(
            f"is a smaller or a larger {metric!r} better?", hint=f"best={metric}:min or best={metric}:max"
        )
    return BestBy(metric, mode)


class Decision(NamedTuple):
    """Whether a checkpoint stays, and why."""

    checkpoint: Listed
    keep: bool
    reason: str


def best_of(checkpoints: Sequence[Listed], by: BestBy) -> Listed | None:
    """The good, current checkpoint with the best finite value of the metric; of equals the oldest."""
    found: Listed | None = None
    best = math.inf
    for one in sorted(checkpoints, key=lambda one: one.step):
        value = one.summary.metric(by.metric) if one.summary is not None and one.summary.good else None
        if value is None or math.isnan(value) or not one.current:
            continue
        score = value if by.mode == "min" else -value
        if found is None or score < best:
            found, best = one, score
    return found


def decide(
    checkpoints: Sequence[Listed], line: Sequence[Listed], keep: Keep, tags: Mapping[str, Tag]
) -> list[Decision]:
    """A decision for every checkpoint folder, in the order given. `line` is the lineage, newest first."""
    reasons: dict[str, str] = {}

    def because(one: Listed | None, reason: str) -> None:
        if one is not None:
            reasons.setdefault(one.folder, reason)

    tagged = {(tag.attempt, tag.step): name for name, tag in sorted(tags.items())}
    for one in checkpoints:
        if one.summary is None:
            because(one, f"cannot be read ({one.problem}): not removed automatically")
        elif one.foreign:
            because(one, "another run wrote it")
        elif (one.summary.attempt, one.step) in tagged:
            because(one, f"tagged {tagged[one.summary.attempt, one.step]}")
    if keep.best_by is not None:
        because(best_of(line, keep.best_by), f"best {keep.best_by.metric}")
    in_line = {one.folder for one in line if one.current}
    # Abandoned and superseded checkpoints count as older than everything in the lineage.
    others = sorted(
        (one for one in checkpoints if one.folder not in in_line and not one.foreign), key=lambda one: -one.step
    )
    by_age = [one for one in line if one.current] + others
    # While the lineage has none (it may have begun anew, with a NaN), the newest good one of another branch is all there is.
    good = (one for one in [*line, *others] if one.summary is not None and one.summary.good)
    because(next(good, None), "newest good")
    for one in by_age if keep.last is None else by_age[: keep.last]:
        because(one, "all are kept" if keep.last is None else f"among the last {keep.last}")
    for one in line:
        if keep.every_steps is not None and one.current and one.step % keep.every_steps == 0:
            because(one, f"a multiple of {keep.every_steps} steps")
    return [
        Decision(one, one.folder in reasons, reasons.get(one.folder) or _why_removed(one, in_line, keep))
        for one in checkpoints
    ]


def _why_removed(one: Listed, in_line: set[str], keep: Keep) -> str:
    if one.folder not in in_line:
        return "superseded" if not one.current else "of an abandoned branch"
    return f"older than the last {keep.last}"


def remove(run: RunFolder, folder: str, work: str) -> None:
    """Remove checkpoint `folder`, by way of folder `work`.

    Raises:
        RunFenced: `work` has been taken away: a newer attempt owns the run.
        OSError: the storage refused.
    """
    trash = f"{work}/trash-{folder}"
    try:
        run.storage.rename(folder, trash)
        # Were files gone before the name is, power loss would leave a checkpoint with holes.
        run.storage.sync_dir(work)
    except FileNotFoundError:
        try:
            run.storage.stat(folder)
        except FileNotFoundError:
            return  # somebody else removed it
        raise RunFenced("a newer attempt has taken over this run", where=run.where) from None
    run.storage.remove_tree(trash)


def components(run: RunFolder, folders: Sequence[str]) -> list[set[str]]:
    """Group checkpoint folders that share a file, directly or through others."""
    groups: list[tuple[set[str], set[tuple[int, int]]]] = []
    for folder in folders:
        files = set()
        with contextlib.suppress(FileNotFoundError):  # somebody removes it just now
            for name in run.storage.list(folder):
                if name.endswith(names.SUFFIX):
                    files.add(run.storage.stat(f"{folder}/{name}").identity)
        touching = [group for group in groups if group[1] & files]
        merged = ({folder}.union(*(group[0] for group in touching)), files.union(*(group[1] for group in touching)))
        groups = [group for group in groups if group not in touching] + [merged]
    return [group[0] for group in groups]
