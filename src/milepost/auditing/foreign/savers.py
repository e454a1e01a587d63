"""The libraries that save, whose scripts can be audited: what is called, what is watched, and how a script is resumed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from milepost.auditing.foreign.causes import TorchWords, Words
from milepost.auditing.foreign.processes import Played
from milepost.errors import ScriptError
from milepost.keras.words import SaverWords as KerasWords

SAVERS = ("torch", "keras")
CALLED = {"torch": "torch.save", "keras": "ModelCheckpoint, BackupAndRestore or another way to save a model of Keras"}
WATCHES = {
    "torch": "--saver torch watches the steps of torch.optim optimizers",
    "keras": "--saver keras watches model.fit",
}
PLACE, ITSELF = "{checkpoint}", "{itself}"


def words_of(saver: str) -> Words:
    """How causes are told where `saver` saves."""
    return TorchWords() if saver == "torch" else KerasWords()


def resume_command(saver: str, command: Sequence[str], text: str | None) -> list[str]:
    """What starts the script again, as a list with `{checkpoint}` in it. Where the script finds its checkpoint by itself, that is
    `command`, or it was said by `{itself}`.

    Raises:
        ScriptError: there is no such saver, or no such command.
    """
    if saver not in SAVERS:
        raise ScriptError(
            f"there is no saver {saver!r}",
            expected=" or ".join(SAVERS),
            hint="a JAX script keeps its state in values of its own: it can be audited once it uses milepost"
            if saver == "jax"
            else "a script that uses milepost needs no --saver",
        )
    example = "--resume-command 'python train.py --resume {checkpoint}'"
    if text is None and saver == "keras":
        return list(command)  # as with BackupAndRestore
    if text is None:
        raise ScriptError("how the script is resumed has to be said", expected=example)
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise ScriptError("the resume command cannot be read", found=text, hint=str(error)) from error
    if not any(PLACE in one for one in parts) and ITSELF not in parts and parts != list(command):
        raise ScriptError(
            "{checkpoint} is missing in the resume command",
            found=text,
            expected=example,
            hint="if the script finds its checkpoint by itself, give the very command that starts it, or add {itself}",
        )
    return [one for one in parts if one != ITSELF]


def why_nothing(played: Played, saver: str) -> str:
    """Why no step was seen."""
    if not played.started:
        return "no Python process of the command could be watched (those started with -I, -E or -S cannot be)"
    if saver == "keras":
        return "no step of model.fit was seen" if "keras" in played.frameworks else "the script imports no Keras 3"
    if "torch" not in played.frameworks:
        if "jax" in played.frameworks:
            return "a JAX script keeps its state in values of its own, and can be audited only once it uses milepost"
        others = ", ".join(sorted(played.frameworks))
        return f"the script imports no torch{f', but {others}' if others else ''}"
    return "no step of a torch.optim optimizer was seen: it is compiled, or training is done outside of Python"
