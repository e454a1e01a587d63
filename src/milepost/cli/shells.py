"""Shell completion where typer's own is not enough: bash takes a REF apart at ``@``, ``=`` and ``:``."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any

from milepost.cli.terminal import say

VARIABLE = "_MILEPOST_COMPLETE"
"""Set by the shell while it asks for completions (or for the script that asks for them)."""

_BREAKS = re.compile(r"[@=:]+")


def asked() -> bool:
    """Whether the shell asks."""
    return VARIABLE in os.environ


def answer(command: Any) -> None:
    """Answer the shell by way of typer, which ends the process when it has answered."""
    if os.environ[VARIABLE] != "complete_bash":
        command.main([], "milepost", VARIABLE)
        return
    words, cursor = _as_typed(os.environ.get("COMP_WORDS", "").split("\n"), int(os.environ.get("COMP_CWORD", "0")))
    os.environ["COMP_WORDS"] = "\n".join(words)
    os.environ["COMP_CWORD"] = str(cursor)
    answers = io.StringIO()
    try:
        with contextlib.redirect_stdout(answers):
            command.main([], "milepost", VARIABLE)
    finally:
        done = _left_alone(words[cursor] if cursor < len(words) else "")
        say("\n".join(line[done:] for line in answers.getvalue().splitlines()))


def _as_typed(words: list[str], cursor: int) -> tuple[list[str], int]:
    """Join what bash took apart: ``runs/mnist``, ``@``, ``be`` was ``runs/mnist@be``."""
    joined: list[str] = []
    glue, at = False, cursor
    for index, word in enumerate(words):
        breaks = _BREAKS.fullmatch(word) is not None
        if joined and (glue or breaks):
            joined[-1] += word
            at -= index <= cursor
        else:
            joined.append(word)
        glue = breaks
    return joined, at


def _left_alone(word: str) -> int:
    """How much of the word at the cursor bash does not replace: all before the last ``@``, or up to the last ``=`` or
    ``:``."""
    last = max(word.rfind(char) for char in "@=:")
    return 0 if last < 0 else last if word[last] == "@" else last + 1
