"""What a PyTorch file tells of itself: who wrote it, at which step."""

from __future__ import annotations

from typing import Any

from milepost.formats.pickle_values import Dict

_STEPS = ("global_step", "step", "iteration", "iter", "num_updates", "steps")
_EPOCHS = ("epoch", "current_epoch", "epochs_trained")


def told(value: Any) -> dict[str, Any]:
    """``written_by``, ``step`` and ``epoch``, as far as the objects in the file say.

    Args:
        value: the outermost object.
    """
    if not isinstance(value, Dict):
        return {}
    named = value.named()
    found: dict[str, Any] = {}
    version = named.get("pytorch-lightning_version")
    if type(version) is str:
        found["written_by"] = {"Lightning": version}
    for word, names in (("step", _STEPS), ("epoch", _EPOCHS)):
        number = next((named[name] for name in names if type(named.get(name)) is int), None)
        if number is not None:
            found[word] = number
    return found
