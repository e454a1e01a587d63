"""What people write into calls, looked at before anything is touched: a mistake is one error that names the argument, what was
expected, what was found, and what to write instead."""

from __future__ import annotations

import inspect
import operator
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from milepost.errors import ScriptError
from milepost.folder.retention import Keep
from milepost.folder.snapshot import IO_BLOCK
from milepost.pipeline.images import Stream
from milepost.slurm.job import node_local
from milepost.training.policy import Policy

LEAST_MEMORY = Stream.BLOCKS * IO_BLOCK
WHICH = '"latest", "never", "best", "step=1200", a tag, or a checkpoint of another run, "runs/old@best"'


def refused(argument: str, expected: str, value: object, hint: str | None = None) -> ScriptError:
    """The error for an argument that cannot be that."""
    return ScriptError(f"{argument} cannot be that", expected=expected, found=_brief(value), hint=hint)


def directory(path: object) -> str:
    """The run directory as a path; ``~`` is the home of the user."""
    try:
        plain = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        plain = None
    if not isinstance(plain, str) or not plain or "\0" in plain:
        raise refused("the run directory", "a path", path, 'as in Checkpointer("runs/mnist", ...)')
    return os.path.expanduser(plain)


def choice(argument: str, value: object, allowed: Collection[str]) -> None:
    """`value` is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise refused(argument, "one of " + ", ".join(map(repr, allowed)), value)


def flag(argument: str, value: object, *, unset: bool = False) -> None:
    """`value` is True or False, or, if `unset`, None. Whatever else would be taken for one of them without a word."""
    if not isinstance(value, bool) and not (unset and value is None):
        raise refused(argument, "True or False", value)


def name(argument: str, value: object) -> None:
    """`value` is a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise refused(argument, "a name", value)


def which(argument: str, value: object) -> None:
    """`value` names a checkpoint."""
    if not isinstance(value, str):
        hint = f'as in {argument}"step={value}"' if _whole(value) is not None else None
        raise refused(argument, WHICH, value, hint)


def whole(argument: str, value: object) -> int:
    """`value` as a whole number; integers of NumPy are fine."""
    number = _whole(value)
    if number is None:
        raise refused(argument, "a whole number", value)
    return number


def count(argument: str, value: object, hint: str | None = None) -> int:
    """`value` as a whole number of at least 0."""
    number = _whole(value)
    if number is None or number < 0:
        raise refused(argument, "a whole number of at least 0", value, hint)
    return number


def mapping(argument: str, value: object, example: str) -> Mapping[str, Any]:
    """`value` as a mapping from names; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise refused(argument, "a mapping from texts", value, f"as in {argument}{example}")
    return value


def keep(value: object) -> None:
    """`value` is a `Keep` or None."""
    if value is not None and not isinstance(value, Keep):
        raise refused("keep=", "milepost.Keep(...)", value, f"as in keep=milepost.Keep(last={_whole(value) or 3})")


def memory(value: object) -> None:
    """`value` is a number of bytes that saving can do with, or None."""
    number = _whole(value)
    if value is not None and (number is None or number < LEAST_MEMORY):
        least = f"bytes, at least {LEAST_MEMORY} ({LEAST_MEMORY >> 20} MiB: the blocks being written)"
        raise refused("max_memory=", least, value)


def node_folder(value: object) -> str | None:
    """``stage_dir=`` as a path, or None; ``~`` and variables are filled in where they are set. Sites call the folder that they give
    a job TMPDIR or SLURM_TMPDIR: both names are fine for either."""
    if value is None:
        return None
    try:
        plain = os.fspath(value)  # type: ignore[call-overload]
    except TypeError:
        plain = None
    if not isinstance(plain, str) or not plain or "\0" in plain:
        raise refused("stage_dir=", "a folder on the disk of this node", value, 'as in stage_dir="$TMPDIR"')
    given = node_local()
    if given is not None:
        plain = re.sub(r"\$(SLURM_)?TMPDIR\b|\$\{(SLURM_)?TMPDIR\}", lambda found: str(given), plain)
    return os.path.expandvars(os.path.expanduser(plain))


def bandwidth(value: object) -> None:
    """`value` is a number of bytes a second, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
        raise refused("drain_bandwidth=", "bytes a second, more than 0", value)


def signals(value: object) -> tuple[Any, ...]:
    """`value` as numbers of signals; which of them can be watched is not looked at here."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise refused("signals=", "a list of signals", value, "as in signals=[signal.SIGTERM], or [] for none")
    return tuple(value)


def items(named: Mapping[str, Any], state: object, call: Callable[..., object]) -> dict[str, Any]:
    """All items: those given by name to `call`, of which none was meant to be an option of it, and those in ``state=``."""
    from difflib import get_close_matches

    others = mapping("state=", state, "{'model': model}")
    twice = named.keys() & others.keys()
    if twice:
        raise ScriptError("an item is given twice, in state= and by name", found=", ".join(sorted(twice)))
    known = [name for name, one in inspect.signature(call).parameters.items() if one.kind is one.KEYWORD_ONLY]
    for item, value in named.items():
        near = get_close_matches(item, known, 1, 0.8)
        plain = value is None or isinstance(value, (str, bool, int, float))
        if isinstance(value, (Policy, Keep)) or (near and plain):
            meant = near[0] if near else "every" if isinstance(value, Policy) else "keep"
            raise ScriptError(
                f"{item}= is no option of Checkpointer",
                found=_brief(value),
                hint=f"did you mean {meant}=? An item of that name is given in state={{{item!r}: ...}}",
            )
    return {**named, **others}


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{type(value).__qualname__} {text[:80]}..."
