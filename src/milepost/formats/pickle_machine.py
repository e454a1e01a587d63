"""A machine that reads pickles and does nothing else: no import, no call, whatever the pickle says.

All opcodes of protocols 0 to 5 (as CPython's ``pickletools`` describes them) are followed; `milepost.formats.pickle_stack` has what
they do. Opcodes, memory and lengths are bounded; long bytes and texts are not read but remembered by their place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from milepost.errors import FormatError, MilepostError
from milepost.formats import bounds
from milepost.formats.pickle_stack import CONTAINER, LONGEST_NUMBER, MEMO, Stack
from milepost.formats.pickle_values import Dict, Set

MOST_OPCODES = 2_560_000
MOST_MEMORY = 128 * 1024 * 1024
"""Bytes, about, of all values."""
NEWEST = 5

_ROUND = 256
"""Opcodes between two looks at the memory."""
_FOUR = struct.Struct("<I")
_STOP = 0x2E


class Machine(Stack):
    """One pickle; the arguments are those of a `milepost.formats.pickle_stack.Stack`."""

    def run(self) -> Any:
        """The value of the pickle.

        Raises:
            FormatError: not a pickle, cut short, of a newer protocol, or with more in it than any checkpoint has.
            UnsafeContentError: it would do what no checkpoint needs.
        """
        start = self.position
        code = 0
        try:
            for _ in range(bounds.most(MOST_OPCODES) // _ROUND):
                if self._memory > bounds.most(MOST_MEMORY):
                    raise bounds.too_much("the pickle fills the memory", self._source.where, bound=MOST_MEMORY)
                for _ in range(_ROUND):
                    at = self._at
                    if at > self._enough:
                        self._more(1)
                        at = 0
                    code = self._data[at]
                    self._at = at + 1
                    if code == _STOP:
                        return self._result()
                    _TABLE[code](self)
        except MilepostError as error:
            here = f"{self._source.where}, at byte {self.position - start} of the pickle"
            if self._source.where not in (error.where or ""):
                error.where = f"{here}: {error.where}" if error.where else here
            raise
        except (IndexError, KeyError, TypeError, ValueError, ArithmeticError, struct.error) as error:
            short = isinstance(error, IndexError | struct.error) and self.position >= self._source.size
            raise FormatError(
                "the pickle is cut short" if short else "the pickle cannot be understood",
                where=f"{self._source.where}, at byte {self.position - start} of the pickle",
                found=f"opcode {bytes([code])!r}: {str(error)[:100]}",
            ) from error
        raise bounds.too_much("the pickle has more in it than any checkpoint", self._source.where, bound=MOST_OPCODES)

    def _result(self) -> Any:
        (value,) = self._stack
        if self._marked:
            raise FormatError("the pickle ends within a group")
        return value

    def _protocol(self) -> None:
        if (found := self._number(1)) > NEWEST:
            raise FormatError("a pickle of a newer protocol", expected=f"at most {NEWEST}", found=f"{found}")


def _float(machine: Machine) -> None:
    (value,) = struct.unpack(">d", machine._take(8))
    machine._push(value)


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine._push(value, 8)


def _unknown(machine: Machine) -> None:
    raise FormatError("this is not a pickle, or one with an opcode that is not known")


# The opcodes of which most pickles mostly consist; `run` has seen to it that their operands are at hand.


def _put_short(machine: Machine) -> None:
    at = machine._at
    machine._memo[machine._data[at]] = machine._stack[-1]
    machine._at = at + 1
    machine._memory += MEMO


def _put_long(machine: Machine) -> None:
    at = machine._at
    machine._memo[_FOUR.unpack_from(machine._data, at)[0]] = machine._stack[-1]
    machine._at = at + 4
    machine._memory += MEMO


def _get_short(machine: Machine) -> None:
    at = machine._at
    machine._at = at + 1
    machine._get(machine._data[at])


def _get_long(machine: Machine) -> None:
    at = machine._at
    machine._at = at + 4
    machine._get(_FOUR.unpack_from(machine._data, at)[0])


def _int_short(machine: Machine) -> None:
    at = machine._at
    machine._stack.append(machine._data[at])
    machine._at = at + 1
    machine._memory += 8


_OPCODES: dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": Machine._protocol,
    b"\x95": lambda m: m._take(8),  # a frame: where pieces of a stream end, which is of no use here
    b"(": Machine._mark,
    b"1": Machine._pop_mark,
    b"0": Machine._pop,
    b"2": Machine._dup,
    b"q": _put_short,
    b"r": _put_long,
    b"p": lambda m: m._put(int(m._line(LONGEST_NUMBER))),
    b"\x94": lambda m: m._put(len(m._memo)),
    b"h": _get_short,
    b"j": _get_long,
    b"g": lambda m: m._get(int(m._line(LONGEST_NUMBER))),
    b"N": _constant(None),
    b"\x88": _constant(True),
    b"\x89": _constant(False),
    b"K": _int_short,
    b"M": lambda m: m._push(m._number(2)),
    b"J": lambda m: m._push(int.from_bytes(m._take(4), "little", signed=True)),
    b"I": Machine._int_line,
    b"L": Machine._long_line,
    b"\x8a": lambda m: m._long_int(m._number(1)),
    b"\x8b": lambda m: m._long_int(m._number(4)),
    b"G": _float,
    b"F": lambda m: m._push(float(m._line(LONGEST_NUMBER))),
    b"\x8c": lambda m: m._text(m._number(1)),
    b"X": lambda m: m._text(m._number(4)),
    b"\x8d": lambda m: m._text(m._number(8)),
    b"V": Machine._raw_unicode,
    b"S": Machine._quoted,
    b"U": lambda m: m._string(m._number(1)),
    b"T": lambda m: m._string(m._number(4)),
    b"C": lambda m: m._bytes(m._number(1)),
    b"B": lambda m: m._bytes(m._number(4)),
    b"\x8e": lambda m: m._bytes(m._number(8)),
    b"\x96": Machine._bytearray,
    b"\x97": Machine._outside,
    b"\x98": Machine._outside,
    b")": lambda m: m._push((), 8),
    b"\x85": lambda m: m._last(1),
    b"\x86": lambda m: m._last(2),
    b"\x87": lambda m: m._last(3),
    b"t": lambda m: m._tuple(m._since_mark()),
    b"]": lambda m: m._push([], CONTAINER),
    b"l": lambda m: m._push(m._since_mark(), CONTAINER),
    b"a": lambda m: m._append([m._stack.pop()]),
    b"e": lambda m: m._append(m._since_mark()),
    b"}": lambda m: m._push(Dict(), CONTAINER),
    b"d": lambda m: m._flat(m._since_mark()),
    b"s": Machine._set_item,
    b"u": lambda m: m._set_items(m._since_mark()),
    b"\x8f": lambda m: m._push(Set([]), CONTAINER),
    b"\x90": Machine._add_items,
    b"\x91": lambda m: m._push(Set(m._since_mark(), frozen=True), CONTAINER),
    b"c": Machine._global,
    b"\x93": Machine._stack_global,
    b"R": Machine._reduce,
    b"\x81": Machine._reduce,  # NEWOBJ: a class in place of a function
    b"\x92": Machine._new_ex,
    b"i": Machine._inst,
    b"o": Machine._obj,
    b"b": Machine._build,
    b"P": lambda m: m._persistent(str(m._line(), "ascii")),
    b"Q": lambda m: m._persistent(m._stack.pop()),
    b"\x82": Machine._registered,
    b"\x83": Machine._registered,
    b"\x84": Machine._registered,
}
_TABLE = [_OPCODES.get(bytes([code]), _unknown) for code in range(256)]
