"""Likely causes of a script without milepost not resuming exactly, and what to do about each, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from milepost.auditing.causes import AVERAGES, MOST, Cause, beside_state, settings, spoken
from milepost.auditing.compare import Leaf, Pair, Parting, Suspect
from milepost.auditing.evidence import SETTING
from milepost.auditing.foreign.compare import generator_of
from milepost.auditing.foreign.records import Save
from milepost.auditing.records import Key, Seen, changed

_KINDS = {
    "optimizer": "the optimizer",
    "scheduler": "the scheduler",
    "scaler": "the gradient scaler",
    "module": "the module",
    "metric": "the metric",
}
_RANDOM = {
    "python": ("Python's random", "random.getstate()", "random.setstate(...)"),
    "numpy": ("numpy's global RNG", "numpy.random.get_state()", "numpy.random.set_state(...)"),
    "torch": ("torch's global RNG", "torch.get_rng_state()", "torch.set_rng_state(...)"),
}
_COUNTERS = re.compile(r"epoch|step|iter|batch|\b(it|i|n|count|counter)\b")
UNKNOWN = (
    "something that the step depends on is not in the checkpoint, and is none of the objects and variables that could be looked "
    "into: a file, a C extension, the time, a global of a library"
)


class Words(Protocol):
    """What to do about each kind of fault."""

    nothing_read: str
    """Nothing was read."""
    position: str
    """The place within an epoch is not kept."""
    order: str
    """Another order of the data."""

    def is_rate(self, path: str) -> bool:
        """Whether a leaf of an optimizer is what others set: the learning rate."""

    def begun(self, epoch: int, stood: int) -> str | None:
        """What is to be said of where the resumed script begins to count epochs; None for nothing."""

    def again(self, *, random: bool) -> str:
        """Why the data of an earlier epoch come again; `random`: global random state begins anew."""

    def object(self, name: str, kind: str, saved: str) -> str:
        """An object does not come back; `saved` says whether it is in the checkpoint: "same", "other" (otherwise), or ""."""

    def random(self, library: str, *, saved: bool) -> str:
        """A global generator is elsewhere than it was."""

    def suspect(self, one: Suspect) -> str | None:
        """A variable, or an attribute of an object, is not put back; None where there is nothing special to say."""


class TorchWords:
    """Where torch.save makes the checkpoints."""

    nothing_read = (
        "the resumed script reads no checkpoint with torch.load: the resume command has to name it ({checkpoint}), or the script "
        "has to look for it"
    )
    position = (
        "save how many batches of the epoch are done, and begin there in the same order (milepost's run.batches does)"
    )
    order = (
        "the data come in another order, or are changed by other random numbers: what orders them (a generator, a sampler's epoch, "
        "the global RNG) is not in the checkpoint"
    )

    def is_rate(self, path: str) -> bool:
        """See `Words`."""
        return False

    def begun(self, epoch: int, stood: int) -> str | None:
        """See `Words`. How a script counts its epochs is not known."""
        return None

    def again(self, *, random: bool) -> str:
        """See `Words`."""
        return "the random numbers that order them begin anew" if random else "the epoch counter is restarted"

    def object(self, name: str, kind: str, saved: str) -> str:
        """See `Words`."""
        return _object(name, kind, saved)

    def random(self, library: str, *, saved: bool) -> str:
        """See `Words`."""
        if library not in _RANDOM:
            return f"{library}'s global RNG is not put back: save its state, and set it when resuming"
        who, get, put = _RANDOM[library]
        if saved:
            return (
                f"{who} is in the checkpoint, but is elsewhere at the first step: {put} is missing, or more is drawn after it "
                "than without the restart"
            )
        return f"{who} is not in the checkpoint: save {get}, and {put} when resuming"

    def suspect(self, one: Suspect) -> str | None:
        """See `Words`."""
        return None


class Facts(NamedTuple):
    """What is known of a resumed process.

    `saves` were made at the point; `reads` says whether it read any checkpoint; `began` is its own count of epoch and batch at its
    first step; `apart` is random state that differs; `suspects` are variables that do.
    """

    pair: Pair
    parting: Parting | None
    saves: Sequence[Save]
    reads: bool
    began: Key | None
    apart: Sequence[Leaf]
    suspects: Sequence[Suspect]


def causes(facts: Facts, words: Words) -> list[Cause]:
    """What is likely to be the matter, the most likely first; nothing where the processes do not part."""
    parting = facts.parting
    if parting is None or not (facts.pair.straight and facts.pair.other):
        return []
    if not facts.reads and parting.after == 0:
        return [Cause("restart", words.nothing_read)]
    one, other = facts.pair.straight[0], facts.pair.other[0]
    named = _lost(one, other, facts.saves, words) if parting.aspect == "state" and parting.after == 0 else []
    begun = words.begun(facts.began.epoch, one.key.epoch) if facts.began is not None else None
    named += [Cause("epoch", begun)] if begun is not None else []
    others = parting.aspect == "batches" or (parting.after == 0 and _batches_differ(one, other))
    data = _data(facts, words) if others else []
    named += data
    special = [] if data else [suspected(one, words) for one in facts.suspects if words.suspect(one) is not None]
    named += {one.text: one for one in reversed(special)}.values()
    felt = others or parting.after > 0 or one.state == other.state
    if facts.apart and felt and not special and not (data and _is_saved(facts.apart, facts.saves)):
        named += _random(facts.apart, facts.saves, words)
    if parting.aspect == "buffers":
        named += _buffers(parting.leaves, one, facts.saves)
    rest = [one for one in facts.suspects if not (special and words.suspect(one) is not None)]
    wanted = [one for one in rest if not named or one.kind or _counts(one)]
    if not named or others or parting.aspect == "place":
        named += [suspected(one, words) for one in wanted]
    return (named or [Cause("", UNKNOWN)])[:MOST]


def _lost(one: Seen, other: Seen, saves: Sequence[Save], words: Words) -> list[Cause]:
    """Objects that are otherwise before the first step than they were."""
    objects = {name: _below(one.state, name) for name, kind in one.kinds.items() if kind in _KINDS}
    lost = [name for name in objects if objects[name] and objects[name] != _below(other.state, name)]
    found = []
    for name in sorted(lost, key=lambda name: list(_KINDS).index(one.kinds[name])):
        kind = one.kinds[name]
        if kind == "optimizer" and any(one.kinds[other] == "scheduler" for other in lost):
            apart = set(changed(objects[name], _below(other.state, name)))
            if all(path.startswith("param_groups/") for path in apart):
                continue  # the scheduler's doing
        if kind == "optimizer" and all(map(words.is_rate, changed(objects[name], _below(other.state, name)))):
            continue  # that of what sets the rate
        found.append(Cause(name, words.object(name, kind, _is_in(saves, name, objects))))
    return found


def _object(name: str, kind: str, saved: str) -> str:
    shown = name.replace("/", ".").partition("#")[0]
    average = kind == "module" and any(word in name.lower() for word in AVERAGES)
    what = f"the average `{shown}`" if average else f"{_KINDS[kind]} `{shown}`"
    if saved == "same":
        return f"{what} is in the checkpoint and does not come back: call `{shown}.load_state_dict(...)` when resuming"
    if saved == "other":
        when = f"`{shown}.step()`" if kind == "scheduler" else "the last change of it"
        return (
            f"{what} is in the checkpoint, but not as it is before the next step: save it after {when}, and do not change it "
            "after it was loaded"
        )
    return (
        f"{what} is not in the checkpoint: add `{shown}.state_dict()` to what torch.save is given, and call "
        f"`{shown}.load_state_dict(...)` when resuming"
    )


def _is_in(saves: Sequence[Save], name: str, objects: Mapping[str, Mapping[str, str]]) -> str:
    """Whether an object was saved: "same", "other" (its keys, with other values) or ""."""
    best = ""
    want = objects[name]
    for save in saves:
        if set(want.values()) <= set(save.leaves.values()) and any(
            re.search(r"state/|weight|bias", key) for key in want
        ):
            return "same"
        first = next(iter(want))
        for path in save.leaves:
            if path == first or path.endswith("/" + first):
                prefix = path[: len(path) - len(first)]
                if all(prefix + key in save.leaves for key in want):
                    if all(save.leaves[prefix + key] == digest for key, digest in want.items()):
                        return "same"
                    # What is saved under these keys may be another object of the same kind.
                    rest = (one for known, one in objects.items() if known != name)
                    if not any(all(save.leaves.get(prefix + k) == v for k, v in one.items()) for one in rest if one):
                        best = "other"
    return best


def _buffers(leaves: Sequence[Leaf], one: Seen, saves: Sequence[Save]) -> list[Cause]:
    """Buffers that no save holds, by the names under which they would be."""
    found = []
    for leaf in leaves:
        if not leaf.path.endswith(".grad"):
            key = leaf.path.rpartition("/")[2]
            if not any(path == key or path.endswith("/" + key) for save in saves for path in save.leaves):
                shown = leaf.path.replace("/", ".")
                found.append(
                    Cause(leaf.path, f"the buffer `{shown}` is not in the checkpoint: save the whole state_dict of its module, "
                          "with persistent buffers")
                )  # fmt: skip
    return found[:2]


def _batches_differ(one: Seen, other: Seen) -> bool:
    return [batch.leaves for batch in one.batches][-1:] != [batch.leaves for batch in other.batches][-1:]


def _data(facts: Facts, words: Words) -> list[Cause]:
    """Why another batch came."""
    parting = facts.parting
    assert parting is not None
    here = facts.pair.other[parting.after]
    want = facts.pair.straight[parting.after].key
    if not here.batches:
        return [Cause("batch", "the resumed script reads no batch for this step")]
    now = here.batches[-1].leaves
    seen = [*facts.pair.before, *facts.pair.straight]
    at = [one.key for one in seen for batch in one.batches[-1:] if batch.leaves == now]
    fix = words.position
    began = facts.began
    if parting.after == 0 and began is not None and want.batch > began.batch:
        # The checkpoint is in the middle of an epoch, and the loader begins.
        again = next((key for key in at if key.epoch == want.epoch), None)
        until = want.batch - 2
        which = f"batches {began.batch - 1} to {until}" if until > began.batch - 1 else f"batch {until}"
        if again is not None:
            return [
                Cause(
                    "loader",
                    f"the loader starts the epoch again: {which} of epoch {want.epoch} are trained twice: {fix}",
                )
            ]
        if at:
            return [Cause("loader", f"the loader starts with epoch {at[0].epoch} again, and stood in epoch {want.epoch}, after "
                          f"{want.batch - 1} batches: the epoch counter is restarted; {fix}")]  # fmt: skip
        return [Cause("loader", f"the loader starts epoch {want.epoch} again, in another order: what came in its first "
                      f"{want.batch - 1} batches is in part trained twice, the rest of it in part never: {fix}")]  # fmt: skip
    if at and at[0].epoch != want.epoch:
        anew = facts.apart and not _is_saved(facts.apart, facts.saves)
        why = words.again(random=bool(anew))
        return [
            Cause("epoch", f"the data of epoch {at[0].epoch} come again in place of those of epoch {want.epoch}: {why}")
        ]
    if at:
        return [
            Cause(
                "batch",
                f"batch {at[0].batch - 1} of epoch {at[0].epoch} comes in place of batch {want.batch - 1}: {fix}",
            )
        ]
    if facts.apart:  # which is said by name
        return []
    return [Cause("batch", words.order)]


def _is_saved(apart: Sequence[Leaf], saves: Sequence[Save]) -> bool:
    """Whether all the global random state that differs is in the checkpoint."""
    saved = {name for save in saves for name in save.random}
    return all(generator_of(leaf.path).removeprefix("rng/") in saved for leaf in apart)


def _random(apart: Sequence[Leaf], saves: Sequence[Save], words: Words) -> list[Cause]:
    saved = {name for save in saves for name in save.random}
    found = []
    for one in dict.fromkeys(generator_of(leaf.path) for leaf in apart):
        group, _, name = one.partition("/")
        shown = name.replace("~1", ".").replace("~0", "~")
        if group != "rng":
            text = f"the generator `{shown}` is not put back: save its state, and set it when resuming"
        else:
            text = words.random(name, saved=name in saved)
        found.append(Cause(one, text))
    return found


def suspected(one: Suspect, words: Words) -> Cause:
    """A variable that is not put back."""
    special = words.suspect(one)
    if special is not None:
        return Cause(one.path, special)
    name, place = spoken(one.path)
    if one.kind == "state":
        return Cause(one.path, beside_state(one, name, place, "save it beside"))
    if one.kind == SETTING:
        return Cause(one.path, f"{settings(one)} was changed in the course of the run: set it again when resuming")
    what = f"the {one.kind} " if one.kind in ("loader", "sampler", "dataset") else ""
    if _counts(one):
        return Cause(one.path, f"the counter `{name}`{place} is restarted: save it, and go on from there when resuming")
    return Cause(
        one.path,
        f"{what}`{name}`{place} is carried from step to step and is not in the checkpoint: save it, and put it back",
    )


def _counts(one: Suspect) -> bool:
    return bool(_COUNTERS.search(one.path.rpartition("/")[2].lower()))


def _below(state: Mapping[str, str], name: str) -> dict[str, str]:
    """The leaves of one object."""
    return {path[len(name) + 1 :]: digest for path, digest in state.items() if path.startswith(name + "/")}
