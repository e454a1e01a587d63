"""Names inside a run directory. Nobody else spells them out."""

from __future__ import annotations

import re
from collections.abc import Iterable

RUN = "milepost.json"
ATTEMPTS = "attempts"
TAGS = "tags"
MANIFEST = "manifest.json"
SUFFIX = ".safetensors"

OLD = "old-"
"""How the name of a checkpoint begins that waits in a work folder while its successor takes its place."""
DROPPED = "dropped-"
"""How the name of a checkpoint or draft begins that nobody publishes any more."""

_STEP = re.compile(r"step-(\d{8,})(?:\.superseded-\d+(?:\.\d+)?)?")
_NUMBERED = re.compile(r"(\d+)\.(json|lock|work|fenced)")


def step_folder(step: int) -> str:
    """Folder of the checkpoint at `step`."""
    return f"step-{step:08d}"


def superseded(step: int, attempt: int) -> str:
    """Where the checkpoint that `attempt` made at `step` goes when a later attempt reaches the same step."""
    return f"{step_folder(step)}.superseded-{attempt}"


def set_aside(attempt: int, step: int) -> str:
    """Where a checkpoint waits while its successor takes its name, if names cannot be exchanged."""
    return f"{attempt_work(attempt)}/{OLD}{step_folder(step)}"


def parse_step(name: str) -> int | None:
    """The step of a checkpoint folder (current or superseded), or None for any other name."""
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None


def step_in(name: str) -> int:
    """The step of a checkpoint that waits in a work folder under a name made from that of its folder."""
    found = re.search(r"step-(\d{8,})", name)
    assert found is not None, name
    return int(found[1])


def is_current(name: str) -> bool:
    """Whether `name` is a checkpoint folder under its own name, not superseded."""
    return parse_step(name) is not None and "." not in name


def attempt_file(number: int) -> str:
    """Who attempt `number` is."""
    return f"{ATTEMPTS}/{number}.json"


def attempt_lock(number: int) -> str:
    """Locked while attempt `number` lives; its modification time is the heartbeat."""
    return f"{ATTEMPTS}/{number}.lock"


def attempt_work(number: int) -> str:
    """Everything attempt `number` is writing, until commit."""
    return f"{ATTEMPTS}/{number}.work"


def attempt_trace(number: int) -> str:
    """What attempt `number` did, step by step."""
    return f"{ATTEMPTS}/{number}.trace.jsonl"


def attempt_fenced(number: int) -> str:
    """What `attempt_work` is renamed to by a newcomer."""
    return f"{ATTEMPTS}/{number}.fenced"


def parse_attempt(name: str) -> tuple[int, str] | None:
    """Number and ending (json, lock, work, fenced) of a name in the attempts folder."""
    found = _NUMBERED.fullmatch(name)
    return (int(found[1]), found[2]) if found else None


def file_stems(items: Iterable[str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """A file name (without ending) for each item: derived from its name, never taken raw, numbered on collision.

    Names that differ only in case collide too, since some file systems fold it.
    """
    taken = {stem.casefold() for stem in reserved}
    stems = {}
    for item in items:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", item)[:80].strip("_") or "item"
        stem, number = plain, 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{plain}-{number}"
        taken.add(stem.casefold())
        stems[item] = stem
    return stems


def of_rank(stem: str, rank: int, ranks: int, number: int, count: int) -> str:
    """The stem of file `number` of the `count` that process `rank` of `ranks` writes of an item; the item's own if that is all."""
    return stem + (f".rank-{rank}" if ranks > 1 else "") + (f".file-{number}" if count > 1 else "")


def part(stem: str, number: int) -> str:
    """File `number` of an item that is spread over several."""
    return f"{stem}.part-{number}{SUFFIX}"
