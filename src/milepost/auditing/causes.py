"""Likely causes of a resume that is not exact, with what to do about each, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from milepost.auditing.compare import Parting, Suspect
from milepost.auditing.evidence import BUILTIN_ITERATOR, SETTING
from milepost.keras import words

BESIDE, TF_BESIDE = "DataLoader read at", "tf.data read at"
"""How the loops begin that are no ``run.batches``."""
AVERAGES = ("ema", "averag", "swa", "shadow", "teacher", "target", "polyak")
_OBJECTS = {
    "optimizer": "the optimizer",
    "scheduler": "the scheduler",
    "scaler": "the gradient scaler",
    "generator": "the random generator",
    "metric": "a metric accumulator,",
    "iterator": "the iterator",
}
MOST = 6


class Cause(NamedTuple):
    """`path` is the variable, as in ``main()/scheduler``; `text` says what is the matter and how to mend it."""

    path: str
    text: str


def causes(
    parting: Parting | None, found: Sequence[Suspect], *, at_once: bool = False, fit: bool = False
) -> list[Cause]:
    """What is likely to be the matter, the most likely first.

    Args:
        parting: where the resumed process differs; None if it does only beside the state.
        found: what of the script was not brought back.
        at_once: the moment of the difference is that of the restore itself.
        fit: the loop is that of Keras.
    """
    aspect = parting.aspect if parting is not None else ""
    if fit and parting is not None and words.is_log(leaf.path for leaf in parting.leaves):
        aspect = "metrics"
    named = [Cause(_named(one), _suspect(one, aspect, fit=fit)) for one in found]
    if parting is None:
        return named[:MOST]
    match parting.aspect:
        case "batches" if parting.loop is not None and parting.loop.startswith(BESIDE):
            text = f"the loader is not run.batches ({parting.loop}): read it through run.batches(loader)"
            named = [Cause(parting.loop, text), *named]
        case "batches" if parting.loop is not None and parting.loop.startswith(TF_BESIDE):
            text = f"the iterator is not in the state ({parting.loop}): give it to Checkpointer(..., iterator=iterator)"
            named = [Cause(parting.loop, text), *named]
        case "batches" if not named:
            named = [Cause("batch", words.BATCH if fit else _BATCH)]
        case "rng":
            named += [Cause("rng", _rng(sorted({leaf.path.split("/")[1] for leaf in parting.leaves})))]
        case "state" if at_once and fit:
            named = [Cause(*one) for one in words.not_itself([leaf.path for leaf in parting.leaves]).items()] + named
        case "state" if at_once:
            names = sorted({leaf.path.partition("/")[0] for leaf in parting.leaves})
            named = [Cause(name, _not_itself(name)) for name in names] + named
        case "gradients" if not named:
            named = [Cause("gradients", _GRADIENTS)]
        case "place" if not named:
            named = [Cause("step", words.PLACE if fit else _PLACE)]
        case _ if not named:
            named = [Cause("", UNKNOWN)]
        case _:
            pass
    return named[:MOST]


_BATCH = (
    "another batch is handed out by run.batches: its order or contents depend on something that is not in the state, as an order "
    "that the script draws itself (leave that to a sampler), or a generator that only the dataset in a worker process draws from"
)
_PLACE = (
    "the loop goes otherwise: a counter or a condition of the script is not in the state. enumerate(run.batches(...)) counts from "
    "0 after a restart: begin at run.progress.batch"
)
_GRADIENTS = (
    "the gradients that are gathered for the next optimizer step are others: what was gathered before the restart is missing. Call "
    "run.step for every batch: a checkpoint then waits for the optimizer step"
)
UNKNOWN = (
    "something that the step depends on is not in the state, and is none of the variables and objects that could be looked "
    "into: a file, a C extension, the time, a global of a library"
)


def _named(one: Suspect) -> str:
    """Its path; of a module in the state that of the first attribute that differs."""
    return one.leaves[0].path if one.kind in ("state", "layer", "nnx") and one.leaves else one.path


def _rng(libraries: list[str]) -> str:
    who = {"python": "Python's random", "keras": "Keras' global seed generator"}
    names = " and ".join(who.get(name, f"{name}'s global RNG") for name in libraries)
    return (
        f"{names} was drawn from, or seeded, otherwise than without the restart: in the dataset, or by code that depends on when "
        "the process began"
    )


def _not_itself(name: str) -> str:
    return (
        f"{name!r} does not come back as it was saved: its load_state_dict forgets or changes something, or the script changes "
        "it after the restore"
    )


def beside_state(one: Suspect, name: str, place: str, keep: str) -> str:
    """What of a module that is saved does not come back, since its ``state_dict`` does not have it."""
    attributes = sorted({leaf.path[len(one.path) + 1 :].split("/")[0] for leaf in one.leaves})
    if attributes == ["requires_grad"]:
        return (
            f"which parameters of `{name}`{place} are frozen (requires_grad) is not in its state_dict: freeze them again when the "
            "script is resumed"
        )
    if all(attribute.rpartition(".")[2] == "training" for attribute in attributes):
        return (
            f"the mode of `{name}`{place} is not in its state_dict: call {name}.train() or {name}.eval() in every epoch, not only "
            "when it changes"
        )
    which = ", ".join(f"`{name}.{attribute}`" for attribute in attributes)
    return f"{which}{place} changes and is not in the module's state_dict: make it a persistent buffer (register_buffer), or {keep}"


def settings(one: Suspect) -> str:
    """The settings of a library that differ, by the expressions that read them."""
    return ", ".join(f"`{leaf.path.rpartition('/')[2]}`" for leaf in one.leaves)


def spoken(path: str) -> tuple[str, str]:
    """A variable's name, and where it is: ``trainer.rng``, `` of main()``."""
    scope, _, rest = path.partition("/")
    return rest.replace("/", "."), "" if scope == "__main__" else f" of {scope}"


def shown(path: str) -> str:
    """A variable in a sentence."""
    name, place = spoken(path)
    return f"`{name}`{place}"


def _suspect(one: Suspect, aspect: str, *, fit: bool) -> str:
    name, place = spoken(one.path)
    short = name.rpartition(".")[2] or name
    if not short.isidentifier():
        short = "name"
    if one.kind == "layer" and one.leaves:
        name += "." + one.leaves[0].path[len(one.path) + 1 :].split("/")[0]
    average = any(word in name.lower() for word in AVERAGES)
    if one.kind == SETTING:
        return f"{settings(one)} was changed in the course of the run: set it again when the script is resumed"
    if one.kind == BUILTIN_ITERATOR:
        return (
            f"`{name}`{place} is an iterator, which begins anew after a restart: read it through run.batches(..., name=...), or "
            "keep in run.vars how far it came"
        )
    if fit:
        return words.not_saved(one.kind, one.path, name, place, average=average, metric=aspect == "metrics")
    if one.kind == "layer":
        return (
            f"`{name}`{place} changes and is none of the model's variables: make it one (self.add_weight(..., trainable=False)), "
            "or keep it in run.vars"
        )
    if one.kind in _OBJECTS:
        fix = f"Checkpointer(..., {short}={name})"
        return f"{_OBJECTS[one.kind]} `{name}`{place} is not in the state: give it to {fix}"
    if one.kind == "state":
        return beside_state(one, name, place, "keep it in run.vars")
    if one.kind == "nnx":
        fields = sorted({leaf.path[len(one.path) + 1 :] for leaf in one.leaves})
        which = ", ".join(f"`{name}.{field.replace('/', '.')}`" for field in fields)
        return (
            f"{which}{place} changes and is no variable of the module: make it an nnx.Variable, or keep it in run.vars"
        )
    if one.kind == "module":
        what = "EMA not registered:" if average else "the module"
        return f"{what} `{name}`{place} changes and is not in the state: give it to Checkpointer(..., {short}={name})"
    if one.kind in ("sampler", "dataset", "loader"):
        fix = "set it from run.progress.epoch, or keep it in run.vars"
        return f"the {one.kind} `{name}`{place} changes and is not in the state: {fix}"
    if average:
        fix = "give it to Checkpointer, or keep it in run.vars"
        return f"EMA not registered: `{name}`{place} is not in the state: {fix}"
    what = "a metric accumulator: " if aspect == "metrics" else ""
    return f"{what}`{name}`{place} is carried from step to step and is not in the state: keep it in run.vars"
