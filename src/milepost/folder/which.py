"""WHICH checkpoint of a run is meant: ``latest``, ``best``, ``best=METRIC``, ``good``, ``step=1200``, ``~2`` or a tag."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from milepost.errors import MetricError, NotFoundError
from milepost.folder import names
from milepost.folder.lineage import of_run
from milepost.folder.retention import best_by, best_of
from milepost.folder.run import Listed, RunFolder
from milepost.folder.tags import read_tags

_STEP = re.compile(r"step=(\d{1,18})")
_BACK = re.compile(r"~(\d{1,18})")


def find(run: RunFolder, which: str = "latest") -> Listed:
    """The checkpoint that `which` names, by summaries alone; `candidates` are the next ones to try should it be damaged.

    Raises:
        NotFoundError: there is none; the message lists what there is.
        MetricError: ``best`` in a run whose metric is not known.
    """
    return candidates(run, which)[0]


def candidates(run: RunFolder, which: str = "latest") -> list[Listed]:
    """The checkpoint that `which` names, then, for ``latest`` and ``good``, older ones of the lineage to fall back to.

    ``latest`` is the newest of the lineage, ``good`` the newest whose trained floats were finite; ``~2`` is the second before
    the newest; ``step=N`` looks in the lineage first, then in abandoned branches.
    """
    line = of_run(run)
    if which in ("latest", "good"):
        usable = line if which == "latest" else [one for one in line if one.summary is not None and one.summary.good]
        return _some(run, usable, which)
    if which == "best" or which.startswith("best="):
        by = run.info.best if which == "best" else best_by(which.removeprefix("best="))
        if by is None:
            raise MetricError(
                "this run does not say which metric is best",
                where=run.where,
                hint="say @best=METRIC, or train with keep=Keep(best=METRIC)",
            )
        best = best_of(line, by)
        return _some(run, [best] if best else [], f"best (no good checkpoint has a metric {by.metric!r})")
    if found := _STEP.fullmatch(which):
        step = int(found[1])
        here = [one for one in line if one.step == step]
        there = [one for one in reversed(run.checkpoints()) if one.step == step and one not in here]
        there.sort(key=lambda one: not one.current)
        return _some(run, (here + there)[:1], which)
    if found := _BACK.fullmatch(which):
        back = int(found[1])
        return _some(run, line[back : back + 1], which)
    tags = read_tags(run)
    if which in tags:
        tag = tags[which]
        tagged = [
            one
            for one in run.checkpoints()
            if one.step == tag.step and not one.foreign and one.summary and one.summary.attempt == tag.attempt
        ]
        return _some(run, tagged[:1], which)
    if names.parse_step(which) is not None:
        return _some(run, [one for one in run.checkpoints() if one.folder == which], which)
    known = ["latest", "best", "good", *tags]
    near = get_close_matches(which, known, 1)
    raise NotFoundError(
        f"there is no checkpoint {which!r}",
        where=run.where,
        expected="latest, best, good, step=N, ~N" + ("" if not tags else ", or a tag: " + ", ".join(sorted(tags))),
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def _some(run: RunFolder, found: Sequence[Listed], which: str) -> list[Listed]:
    if found:
        return list(found)
    steps = sorted({one.step for one in run.checkpoints()})
    shown = ", ".join(str(step) for step in steps[-8:]) or "no checkpoint yet"
    raise NotFoundError(f"there is no checkpoint {which}", where=run.where, found=f"steps {shown}" if steps else shown)
