"""Which variables of a running function may still be read before they are written: the others are leftovers of a finished turn.

The usual backward question of compilers (liveness), asked forward for one place: a walk over the instructions that may come next.
Handlers of exceptions are not followed.
"""

from __future__ import annotations

import bisect
import dis
import functools
import re
from types import CodeType, FrameType

_WORD = re.compile(
    r"(LOAD|STORE|DELETE)_(?:FAST|NAME|GLOBAL|DEREF|CLOSURE|CLASSDEREF|FROM_DICT_OR_DEREF|FROM_DICT_OR_GLOBALS)"
)
_ENDS = re.compile(r"RETURN_|RAISE_|RERAISE|JUMP_FORWARD|JUMP_BACKWARD|JUMP_ABSOLUTE|INTERPRETER_EXIT")


def live_names(frame: FrameType) -> frozenset[str]:
    """The names that `frame` may read before it writes them.

    Example:
        Asked for its next batch, this function may still read `total`, not `loss`:

        >>> def train(batches, total=0.0):
        ...     for batch in batches:
        ...         loss = batch * 2.0
        ...         total += loss
        ...     return total
    """
    return _live(frame.f_code, frame.f_lasti)


@functools.lru_cache(maxsize=1000)
def _live(code: CodeType, position: int) -> frozenset[str]:
    instructions = list(dis.get_instructions(code))
    at = {one.offset: number for number, one in enumerate(instructions)}
    found: set[str] = set()
    # A place is visited again if it is reached with fewer names written.
    visited: dict[int, frozenset[str]] = {}
    waiting: list[tuple[int, frozenset[str]]] = []

    def go_to(number: int, written: frozenset[str]) -> None:
        if number < len(instructions):
            before = visited.get(number)
            if before is None or not before <= written:
                visited[number] = written if before is None else before & written
                waiting.append((number, visited[number]))

    def leave(number: int, written: frozenset[str]) -> None:
        one = instructions[number]
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
            go_to(at[one.argval], written)
        if not _ENDS.match(one.opname):
            go_to(number + 1, written)

    # A frame that waits for a call of Python code stands behind the instruction, in its cache.
    here = bisect.bisect_right(list(at), position) - 1
    leave(here, frozenset()) if here >= 0 else go_to(0, frozenset())
    while waiting:
        number, written = waiting.pop()
        one = instructions[number]
        names = one.argval if isinstance(one.argval, tuple) else (one.argval,)
        # Newer Pythons have instructions that do two things: STORE_FAST_LOAD_FAST and the like.
        for word, name in zip(_WORD.findall(one.opname), names, strict=False):
            if word == "LOAD":
                if name not in written:
                    found.add(name)
            else:
                written |= {name}
        leave(number, written)
    return frozenset(found)


def global_names(code: CodeType) -> frozenset[str]:
    """The global names that `code`, or a function defined in it, reads."""
    return _global_names(code)


@functools.lru_cache(maxsize=10_000)
def _global_names(code: CodeType) -> frozenset[str]:
    names = {one.argval for one in dis.get_instructions(code) if one.opname.startswith("LOAD_GLOBAL")}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return frozenset(names)
