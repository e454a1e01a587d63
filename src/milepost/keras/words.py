"""What a ``fit`` does not save, and what to do about it, in words. Without Keras: the process that reports does not import it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol


class _Leaf(Protocol):
    @property
    def path(self) -> str: ...


class _Suspect(Protocol):
    """See `milepost.auditing.compare.Suspect`."""

    @property
    def path(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def leaves(self) -> Sequence[_Leaf]: ...


HELD = "fit()"
"""What paths begin with of what ``fit`` itself holds: callbacks, and the object that data is read from."""
_KINDS = {"optimizer": "the optimizer", "metric": "the metric", "module": "the model or layer"}
_IN_CALLBACK = (
    "of a callback the attributes that are numbers, texts, lists, dicts and arrays are saved, and no other objects: make it one of "
    "those, or give the callback state_dict() and load_state_dict()"
)
BATCH = (
    "another batch is handed out by fit: its order or contents depend on something that is not saved, as a generator or a counter "
    "outside of the keras.utils.PyDataset (make it an attribute there), an unseeded shuffle of tf.data (give it a seed), or a "
    "Python generator that goes on where another process began (make it a PyDataset)"
)
PLACE = (
    "fit goes otherwise: it is given other epochs or other data than before, or a callback stops it by something that is not "
    "saved"
)


def is_fit(state: Collection[str]) -> bool:
    """Whether a state, by its paths, is that of a ``fit``."""
    return "fit/backend" in state


def is_log(paths: Iterable[str]) -> bool:
    """Whether what differs in the state of a ``fit`` is what it has logged."""
    found = list(paths)
    return bool(found) and all(
        path.startswith(("fit/callbacks/History/", "fit/callbacks/CSVLogger/")) for path in found
    )


def not_saved(kind: str, path: str, name: str, place: str, *, average: bool, metric: bool) -> str:
    """What is to be done about an object or a variable that is otherwise after a restart.

    Args:
        kind: of the object; "" for a plain variable.
        path: of it.
        name: what the script calls it.
        place: where, as in " of main()"; "" for a global variable.
        average: it is an average of weights.
        metric: it matters to the metrics alone.
    """
    if kind == "layer":
        return (
            f"`{name}` changes and is none of the model's variables: make it one (self.add_weight(..., trainable=False)), or an "
            "attribute of a callback"
        )
    if path.startswith(f"{HELD}/"):
        what = "the random generator " if kind == "generator" else ""
        return f"{what}`{name}` changes and is not saved: {_IN_CALLBACK}"
    if kind == "generator":
        return (
            f"the random generator `{name}`{place} is not saved: make it an attribute of the keras.utils.PyDataset that draws from "
            "it, or let the layer draw by a keras.random.SeedGenerator of its own"
        )
    if average or kind in _KINDS:
        what = "EMA not registered:" if average else _KINDS[kind]
        return (
            f"{what} `{name}`{place} changes and is in neither the model nor a callback: make it an attribute of the model, so "
            "that its variables are saved, or of a callback"
        )
    what = "a metric accumulator: " if metric else ""
    fix = "a keras.metrics.Metric of the model" if metric else "a weight of the model"
    return (
        f"{what}`{name}`{place} is carried from step to step and is not saved: make it an attribute of a callback or of the "
        f"keras.utils.PyDataset (numbers, texts, lists, dicts and arrays are saved there), or {fix}"
    )


def not_itself(paths: Collection[str]) -> Mapping[str, str]:
    """What did not come back as it was saved, by item or callback, of the leaves `paths`."""
    found = {}
    for path in paths:
        parts = path.split("/")
        if parts[:2] == ["fit", "callbacks"] and len(parts) > 2:
            found["/".join(parts[:3])] = (
                f"the callback {parts[2]} does not come back as it was saved: its load_state_dict forgets or changes something"
            )
        else:
            found[parts[0]] = (
                f"{parts[0]!r} does not come back as it was saved: the script changes it after the restore"
            )
    return dict(sorted(found.items()))


class SaverWords:
    """What to do about each kind of fault, where callbacks of Keras make the checkpoints."""

    nothing_read = (
        "the resumed script reads no file of Keras: the resume command has to name it ({checkpoint}), or the script has to look "
        "for it"
    )
    position = (
        "BackupAndRestore and ModelCheckpoint know of epochs only: save at the ends of epochs and give fit initial_epoch=, or use "
        "milepost.keras.Checkpoint, which goes on amid an epoch"
    )
    order = (
        "the data come in another order, or are changed by other random numbers: Keras saves neither the random state nor the "
        "position in the data; milepost.keras.Checkpoint does"
    )

    def is_rate(self, path: str) -> bool:
        """Whether a leaf of an optimizer is what callbacks set."""
        return path.endswith("learning_rate")

    def begun(self, epoch: int, stood: int) -> str | None:
        """Whether ``fit`` begins with the epoch in which it stood."""
        if epoch == stood:
            return None
        return f"fit begins with epoch {epoch}, and stood before epoch {stood}: give it initial_epoch={stood}"

    def again(self, *, random: bool) -> str:
        """Why the data of an earlier epoch come again."""
        what = "the random numbers that order them begin" if random else "what orders them begins"
        return (
            f"{what} anew with the process; give fit data in an order that follows from the number of the epoch, or use "
            "milepost.keras.Checkpoint"
        )

    def object(self, name: str, kind: str, saved: str) -> str:
        """What a ``fit`` trains does not come back."""
        if name == "optimizer" and saved:
            return (
                "the optimizer is in the checkpoint and does not come back: its variables must be there before load_weights "
                "(model.optimizer.build(model.trainable_variables)), or load the whole model (keras.models.load_model) and do not "
                "compile it again"
            )
        if name == "optimizer":
            return (
                "the optimizer is not in the checkpoint: save the whole model (save_weights_only=False), or weights of a model "
                "that is compiled"
            )
        if saved == "other":
            return "the model is in the checkpoint, but not as it is before the next step: something changes it after it was loaded"
        return "the model does not come back: load the checkpoint (model.load_weights, or keras.models.load_model) when resuming"

    def random(self, library: str, *, saved: bool) -> str:
        """A global generator is elsewhere than it was."""
        who = {"python": "Python's random", "keras": "Keras' global seed generator"}.get(
            library, f"{library}'s global RNG"
        )
        return f"{who} begins anew: no callback of Keras saves it; milepost.keras.Checkpoint does"

    def suspect(self, one: _Suspect) -> str | None:
        """A variable, or an attribute of an object, is not put back."""
        scope, _, rest = one.path.partition("/")
        name = rest.replace("/", ".")
        if one.kind == "layer" and one.leaves:
            attribute = one.leaves[0].path[len(one.path) + 1 :].split("/")[0]
            fix = "make it one (self.add_weight(..., trainable=False))"
            return f"`{name}.{attribute}` changes and is none of the model's variables: {fix}"
        if scope == HELD:
            callback = name.partition(".")[0]
            return (
                f"the callback {callback} begins anew: Keras does not save what callbacks have counted; milepost.keras.Checkpoint "
                "does"
            )
        return None
