"""Where two processes part: the first moment, and what is different there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from milepost.auditing.evidence import BUILTIN_ITERATOR, OBJECT
from milepost.auditing.records import Key, Seen, changed

Aspect = Literal["place", "batches", "rng", "state", "buffers", "gradients", "metrics"]


class Leaf(NamedTuple):
    """A leaf that differs: its digests in the one process and in the other."""

    path: str
    before: str | None
    now: str | None


class Parting(NamedTuple):
    """The first moment at which two processes differ.

    `aspect` is what differs, the earliest cause first: the place in the run, else the batch that was handed out, else random
    state, else the state of the run, else the gradients that are gathered for its next step, else its
    metrics. `after` is how many moments after the first common one it is.
    """

    key: Key
    aspect: Aspect
    leaves: list[Leaf]
    after: int
    expected: str | None = None
    found: str | None = None
    loop: str | None = None


class Pair(NamedTuple):
    """Two processes side by side, from the first moment of the second on."""

    straight: list[Seen]
    other: list[Seen]
    before: list[Seen]
    """What the first one did before that."""

    @classmethod
    def align(cls, straight: Sequence[Seen], other: Sequence[Seen]) -> Pair:
        """Begin where `other` begins; nothing of `straight` is left if it never was there."""
        keys = [one.key for one in straight]
        begin = keys.index(other[0].key) if other and other[0].key in keys else len(keys)
        return cls(list(straight[begin:]), list(other), list(straight[:begin]))

    def unseeded(self) -> set[str]:
        """The libraries whose random state differs from the first moment on: where both began anew, nobody seeded it."""
        if not (self.straight and self.other):
            return set()
        return {path.split("/")[1] for path in changed(self.straight[0].rng, self.other[0].rng)}

    def parting(self, *, ends: bool, unseeded: Collection[str] = ()) -> Parting | None:
        """Where they part.

        Args:
            ends: both ran to the end of the script, so that neither may have done more than the other.
            unseeded: libraries whose random state cannot be compared; it matters by what is drawn from it.
        """
        for number, (one, other) in enumerate(zip(self.straight, self.other, strict=False)):
            found = _difference(one, other, number, unseeded)
            if found is not None:
                return found
        shorter = min(len(self.straight), len(self.other))
        if len(self.straight) == len(self.other) or not (ends or shorter == 0):
            return None
        rest = (self.straight[shorter:] or self.other[shorter:])[0].key
        told = ("the end", str(rest)) if len(self.other) > shorter else (str(rest), "the end")
        return Parting(rest, "place", [], shorter, *told)


def _difference(one: Seen, other: Seen, number: int, unseeded: Collection[str]) -> Parting | None:
    key = other.key
    if one.key != other.key:
        return Parting(key, "place", [], number, str(one.key), str(other.key))
    if number:
        for position in range(max(len(one.batches), len(other.batches))):
            if position >= min(len(one.batches), len(other.batches)):
                counts = f"{len(one.batches)} batches", f"{len(other.batches)} batches"
                loop = (one.batches + other.batches)[-1].loop
                return Parting(key, "batches", [], number, *counts, loop)
            before, now = one.batches[position], other.batches[position]
            if before != now:
                return Parting(key, "batches", _leaves(before.leaves, now.leaves), number, loop=now.loop)
    else:
        for loop in one.under_way.keys() & other.under_way.keys() - {key.asker}:
            if one.under_way[loop] != other.under_way[loop]:
                leaves = _leaves(one.under_way[loop], other.under_way[loop])
                return Parting(key, "batches", leaves, number, loop=loop)
    if one.rng != other.rng:
        leaves = [leaf for leaf in _leaves(one.rng, other.rng) if leaf.path.split("/")[1] not in unseeded]
        if leaves:
            return Parting(key, "rng", leaves, number)
    if one.state != other.state:
        return Parting(key, "state", _leaves(one.state, other.state), number)
    # Where one has none, nothing may be gathered there: then what it lacks shows when the step is made.
    gathered = [leaf for leaf in _leaves(one.gradients, other.gradients) if None not in (leaf.before, leaf.now)]
    if gathered:
        return Parting(key, "gradients", gathered, number)
    common = one.metrics.keys() & other.metrics.keys()
    different = sorted(name for name in common if one.metrics[name] != other.metrics[name])
    if different:
        name = different[0]
        values = f"{name} = {one.metrics[name]}", f"{name} = {other.metrics[name]}"
        return Parting(key, "metrics", [Leaf(name, None, None) for name in different], number, *values)
    return None


def _leaves(before: Mapping[str, str], now: Mapping[str, str]) -> list[Leaf]:
    return [Leaf(path, before.get(path), now.get(path)) for path in changed(before, now)]


class Suspect(NamedTuple):
    """An object or variable of the script that is otherwise than it was in the uninterrupted run.

    `path` is that of the object (or variable), `kind` what it is ("" for a plain variable), `first` how many moments after the
    restart it first differs, and `leaves` how it does then.
    """

    path: str
    kind: str
    first: int
    leaves: list[Leaf]


def suspects(
    pair: Pair, steady: Callable[[Key, str], bool], kinds: Mapping[str, str], until: int | None
) -> list[Suspect]:
    """What of the script was not brought back, the most telling first.

    Only what both have, what changes in the course of an uninterrupted run, and what is the same in every such run.

    Args:
        pair: the uninterrupted process and the resumed one.
        steady: whether a leaf is the same, at a moment, in all uninterrupted processes.
        kinds: path -> what object is there.
        until: look at so many moments; None for all.
    """
    values = _values([*pair.before, *pair.straight])
    found: dict[str, Suspect] = {}
    for number, (one, other) in enumerate(zip(pair.straight, pair.other, strict=False)):
        if one.key != other.key or (until is not None and number > until):
            break
        if number == 0 and (until is None or until > 1):
            continue  # at the restart itself, leftovers of the turn before are not there yet
        names = {_variable(path) for path in one.script} & {_variable(path) for path in other.script}
        for path in changed(one.script, other.script):
            before, now = one.script.get(path), other.script.get(path)
            moves = None in (before, now) or len(values[path]) > 1
            if _variable(path) in names and moves and steady(one.key, path):
                owner = _owner(path, kinds)
                suspect = found.setdefault(owner, Suspect(owner, _kind(owner, kinds), number, []))
                if suspect.first == number:
                    suspect.leaves.append(Leaf(path, before, now))
    # What differs only once the state does is a consequence, if something did before.
    earlier = [one for one in found.values() if until is None or one.first < until]
    if not found and until is not None and until < len(pair.other):
        here = pair.other[until].script
        return [
            Suspect(path, kind, until, [])
            for path, kind in kinds.items()
            if kind == BUILTIN_ITERATOR and f"{path}/is" in here
        ]
    return sorted(earlier or found.values(), key=lambda one: (not one.kind, one.first, one.path))


def _values(seen: Sequence[Seen]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for one in seen:
        for path, digest in one.script.items():
            values.setdefault(path, set()).add(digest)
    return values


def _kind(path: str, kinds: Mapping[str, str]) -> str:
    kind = kinds.get(path, "")
    return "" if kind == OBJECT else kind


def _variable(path: str) -> str:
    """The function or module and the variable that `path` begins with."""
    return "/".join(path.split("/")[:2])


def _owner(path: str, kinds: Mapping[str, str]) -> str:
    """What `path` belongs to: the innermost object of a known kind, an attribute of the script's own object, or a variable."""
    parts = path.split("/")
    for length in range(len(parts), 1, -1):
        kind = kinds.get("/".join(parts[:length]))
        if kind is not None:
            return "/".join(parts[: length + 1] if kind == OBJECT else parts[:length])
    return _variable(path)
