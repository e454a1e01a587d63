"""A resumed process beside the uninterrupted one: its first step is the one after the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec

from milepost.auditing.compare import Aspect, Leaf, Pair, Parting
from milepost.auditing.foreign.records import END, STATEFUL
from milepost.auditing.records import Batch, Seen, changed


def align(straight: Sequence[Seen], other: Sequence[Seen], done: int) -> Pair:
    """Put the moments side by side. `other` went on after `done` steps, and counts its own from 1."""
    begin = min(done, len(straight))
    rest = straight[begin:]
    other = _call_alike(rest[0], other) if rest and other else other
    named = []
    for number, one in enumerate(other):
        twin = rest[number].key if number < len(rest) else None
        if twin is None or (twin.phase == END) != (one.key.phase == END):
            twin = one.key._replace(step=one.key.step + done)
        named.append(msgspec.structs.replace(one, key=twin))
    return Pair(list(rest), named, list(straight[:begin]))


def _call_alike(one: Seen, other: Sequence[Seen]) -> Sequence[Seen]:
    """Call objects, and what is in them, by the names that they have in `one`: another script that resumes may have other names,
    and Keras calls the variables of a model that it has loaded otherwise than those of one that was made."""
    mine, theirs = ({name: kind for name, kind in seen.kinds.items() if kind in STATEFUL and _parts(seen, name)}
                    for seen in (one, other[0]))  # fmt: skip
    names: dict[str, str] = {}
    for name in theirs.keys() - mine.keys():
        fit = [known for known in mine.keys() - theirs.keys() if mine[known] == theirs[name]]
        alike = [known for known in fit if _parts(one, known) == _parts(other[0], name)] or fit
        if len(alike) == 1 and alike[0] not in names.values():
            names[name] = alike[0]
    other = [_renamed(seen, names) for seen in other] if names else other
    for name in mine.keys() & {names.get(name, name) for name in theirs}:
        parts, others = ([path for path in seen.state if path.startswith(f"{name}/")] for seen in (one, other[0]))
        if len(parts) == len(others) and set(parts) != set(others):
            other = [_renamed(seen, dict(zip(others, parts, strict=True))) for seen in other]
    return other


def _parts(seen: Seen, name: str) -> set[str]:
    """The paths of what an object has, below it."""
    return {path[len(name) :] for path in (*seen.state, *seen.made) if path.startswith(name + "/")}


def _renamed(seen: Seen, names: Mapping[str, str]) -> Seen:
    def rename(found: Mapping[str, str]) -> dict[str, str]:
        new = {}
        for path, digest in found.items():
            old = next((name for name in names if path == name or path.startswith(name + "/")), None)
            new[path if old is None else names[old] + path[len(old) :]] = digest
        return new

    return msgspec.structs.replace(seen, state=rename(seen.state), made=rename(seen.made), kinds=rename(seen.kinds))


def parting(pair: Pair, *, ends: bool) -> Parting | None:
    """Where they part, random state aside, which matters by what is drawn from it.

    Args:
        pair: what `align` returned.
        ends: both ran to the end of the script, so that neither may have done more than the other.
    """
    for number, (one, other) in enumerate(zip(pair.straight, pair.other, strict=False)):
        found = _difference(one, other, number)
        if found is not None:
            return found
    shorter = min(len(pair.straight), len(pair.other))
    if len(pair.straight) == len(pair.other) or not (ends or shorter == 0):
        return None
    rest = (pair.straight[shorter:] or pair.other[shorter:])[0].key
    told = ("the end", str(rest)) if len(pair.other) > shorter else (str(rest), "the end")
    return Parting(rest, "place", [], shorter, *told)


def _difference(one: Seen, other: Seen, number: int) -> Parting | None:
    key = other.key
    if one.key != key:
        return Parting(key, "place", [], number, str(one.key), str(key))
    extra = tuple(f"{name}/" for name in other.kinds.keys() - one.kinds.keys())  # what only a restart makes
    state, made = ({path: digest for path, digest in found.items() if not path.startswith(extra)}
                   for found in (other.state, other.made))  # fmt: skip
    if one.state != state:
        return Parting(key, "state", _leaves(one.state, state), number)
    found = _batches(one.batches, other.batches, first=number == 0)
    if found is not None:
        before, now = found
        leaves = _leaves(before.leaves, now.leaves) if before is not None and now is not None else []
        loop = (now or before or one.batches[-1]).loop
        if leaves:
            return Parting(key, "batches", leaves, number, loop=loop)
        counts = f"{len(one.batches)} batches", f"{len(other.batches)} batches"
        return Parting(key, "batches", leaves, number, *counts, loop)
    if one.made != made:
        leaves = _leaves(one.made, made)
        gradients = [leaf for leaf in leaves if leaf.path.endswith(".grad")]
        aspect: Aspect = "gradients" if len(gradients) == len(leaves) else "buffers"
        return Parting(key, aspect, leaves, number)
    return None


def _batches(one: list[Batch], other: list[Batch], *, first: bool) -> tuple[Batch | None, Batch | None] | None:
    """The first batches that differ, None where there is one less. Since a restart, fewer may have come than since the step
    before: those that came last count."""
    if first:
        shorter = min(len(one), len(other)) or max(len(one), len(other))
        one, other = one[-shorter:], other[-shorter:]
    for position in range(max(len(one), len(other))):
        before = one[position] if position < len(one) else None
        now = other[position] if position < len(other) else None
        if before is None or now is None or before.leaves != now.leaves:
            return before, now
    return None


def random_apart(pair: Pair, found: Parting | None) -> list[Leaf]:
    """Random state that is not put back: what differs before they part (or there, at the latest), of those generators that are
    drawn from in the course of the uninterrupted run."""
    seen = [*pair.before, *pair.straight]
    drawn = {generator_of(path) for one, other in pairwise(seen) for path in changed(one.rng, other.rng)}
    until = None if found is None else found.after + (found.aspect != "place")
    for one, other in list(zip(pair.straight, pair.other, strict=False))[:until]:
        both = one.rng.keys() & other.rng.keys()
        apart = [leaf for leaf in _leaves(one.rng, other.rng) if generator_of(leaf.path) in drawn and leaf.path in both]
        if apart:
            return apart
    return []


def generator_of(path: str) -> str:
    """Which generator a leaf of random state belongs to: ``rng/torch`` or ``generator/NAME``."""
    return "/".join(path.split("/")[:2])


def _leaves(before: Mapping[str, str], now: Mapping[str, str]) -> list[Leaf]:
    return [Leaf(path, before.get(path), now.get(path)) for path in changed(before, now)]
