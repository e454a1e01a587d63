"""A machine that reads pickles and does nothing else: no import, no call, whatever the pickle says.

All opcodes of protocols 0 to 5 (as CPython's ``pickletools`` describes them) are followed. What a name stands for, and what a call
would return, is asked of a `Meaning`, which knows a few harmless ones and otherwise notes what was named. Opcodes, memory and
lengths are bounded; long bytes and texts are not read but remembered by their place.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any, Protocol

from milepost.errors import FormatError, MilepostError, UnsafeContentError
from milepost.formats.pickle_values import Dict, Global, Known, Long, Set, Thing
from milepost.formats.place import Readable, Window

MOST_OPCODES = 2_560_000
MOST_MEMORY = 128 * 1024 * 1024
"""Bytes, about, of all values."""
LONG = 64 * 1024
"""Bytes from which on bytes and texts stay in the file."""
LONGEST_NUMBER = 4096
"""Bytes of an int, or of a line of the text protocol that holds a number."""
LONGEST_TEXT_LINE = 16 * 1024 * 1024
"""Bytes of a text in protocol 0, which has to be read to find its end."""
NEWEST = 5

_PIECE = 256 * 1024
_ROUND = 256
"""Opcodes between two looks at the memory."""
_FOUR = struct.Struct("<I")
_STOP = 0x2E
_LONGEST_OPERAND = 8
_CONTAINER, _SLOT, _MEMO = 160, 40, 64  # bytes, about


class Meaning(Protocol):
    """What the names in a pickle stand for."""

    def name(self, module: str, name: str) -> Any:
        """What stands for ``module.name``.

        Raises:
            UnsafeContentError: no checkpoint needs it.
        """

    def call(self, function: Any, args: tuple[Any, ...]) -> Any:
        """What stands for the result of a call, or for a new object of a class.

        Raises:
            UnsafeContentError: no checkpoint needs such a call.
            FormatError: one that cannot be.
        """

    def persistent(self, key: Any) -> Any:
        """What the persistent id `key` stands for.

        Raises:
            FormatError: there is none here.
        """


class Machine:
    """One pickle.

    Args:
        source: what it is in.
        meaning: see `Meaning`.
        offset: where in `source` it begins.
    """

    def __init__(self, source: Readable, meaning: Meaning, offset: int = 0) -> None:
        self._source, self._meaning = source, meaning
        self._base, self._data, self._at = offset, b"", 0
        self._enough = -1
        """Up to here the longest operand that has a fixed size is at hand (or the end of the source is)."""
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self._memory = 0

    @property
    def position(self) -> int:
        """Where in the source the next byte is."""
        return self._base + self._at

    def run(self) -> Any:
        """The value of the pickle.

        Raises:
            FormatError: not a pickle, cut short, of a newer protocol, or with more in it than any checkpoint has.
            UnsafeContentError: it would do what no checkpoint needs.
        """
        start = self.position
        code = 0
        try:
            for _ in range(MOST_OPCODES // _ROUND):
                if self._memory > MOST_MEMORY:
                    raise UnsafeContentError(
                        "the pickle fills the memory", expected=f"about {MOST_MEMORY:,} bytes at most"
                    )
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
        raise FormatError(
            "the pickle has more in it than any checkpoint",
            where=self._source.where,
            expected=f"at most {MOST_OPCODES:,} opcodes",
        )

    def _result(self) -> Any:
        (value,) = self._stack
        if self._marked:
            raise FormatError("the pickle ends within a group")
        return value

    # -- bytes ---------------------------------------------------------------------------------------------------------

    def _more(self, size: int) -> None:
        """Have at least `size` bytes at hand."""
        position, left = self.position, self._source.size - self.position
        if size > left:
            raise FormatError("the pickle is cut short", expected=f"{size} bytes more", found=f"{left}")
        self._data = self._source.read(position, max(size, min(_PIECE, left)))
        self._base, self._at = position, 0
        self._enough = len(self._data) - (1 if len(self._data) == left else 1 + _LONGEST_OPERAND)

    def _take(self, size: int) -> bytes:
        at = self._at
        if at + size > len(self._data):
            self._more(size)
            at = 0
        self._at = at + size
        return self._data[at : at + size]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self, most: int = LONG) -> bytes:
        found = self._data.find(b"\n", self._at)
        while found < 0:
            have, left = len(self._data) - self._at, self._source.size - self.position
            if have > most or have == left:
                raise FormatError("a line of the pickle has no end, or is impossibly long", found=f"{have} bytes")
            self._more(min(max(2 * have, 1), left))
            found = self._data.find(b"\n")
        line = self._data[self._at : found]
        if len(line) > most:
            raise FormatError("a line of the pickle has no end, or is impossibly long", found=f"{len(line)} bytes")
        self._at = found + 1
        return line

    def _long(self, size: int, kind: str) -> Long:
        found = Long(Window(self._source, self.position, size), kind)
        self._base, self._data, self._at, self._enough = self.position + size, b"", 0, -1
        return found

    # -- the stack -----------------------------------------------------------------------------------------------------

    def _push(self, value: Any, size: int = _SLOT) -> None:
        self._memory += size
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marked.pop()
        return items

    def _mark(self) -> None:
        self._memory += _CONTAINER
        self._marked.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> None:
        self._since_mark()

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _dup(self) -> None:
        self._push(self._stack[-1])

    # -- the memo ------------------------------------------------------------------------------------------------------

    def _put(self, index: int) -> None:
        if not 0 <= index < 2**32:
            raise FormatError("a place in the memo that cannot be", found=f"{index}")
        self._memory += _MEMO
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        try:
            self._stack.append(self._memo[index])
        except KeyError:
            raise FormatError("the pickle refers to what it never had", found=f"place {index} of the memo") from None
        self._memory += 8

    # -- texts, numbers ------------------------------------------------------------------------------------------------

    def _bytes(self, size: int) -> None:
        if size > LONG:
            self._push(self._long(size, "bytes"), _CONTAINER)
        else:
            self._push(self._take(size), 40 + size)

    def _text(self, size: int) -> None:
        if size > LONG:
            self._push(self._long(size, "str"), _CONTAINER)
        else:
            self._push(str(self._take(size), "utf-8", "surrogatepass"), 60 + size)

    def _string(self, size: int) -> None:
        """A str of Python 2, which is text or bytes."""
        if size > LONG:
            self._push(self._long(size, "bytes"), _CONTAINER)
            return
        self._push(_text_or_bytes(self._take(size)), 60 + size)

    def _bytearray(self) -> None:
        self._bytes(self._number(8))
        if type(self._stack[-1]) is bytes:
            self._stack[-1] = bytearray(self._stack[-1])

    def _quoted(self) -> None:
        line = self._line(LONGEST_TEXT_LINE).strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise FormatError("a text in the pickle has no quotes")
        found, _ = codecs.escape_decode(line[1:-1])
        self._push(_text_or_bytes(found), 60 + len(line))

    def _raw_unicode(self) -> None:
        line = self._line(LONGEST_TEXT_LINE)
        self._push(str(line, "raw-unicode-escape"), 60 + 2 * len(line))

    def _int_line(self) -> None:
        line = self._line(LONGEST_NUMBER).strip()
        self._push(line == b"01" if line in (b"00", b"01") else int(line), 60 + len(line))

    def _long_line(self) -> None:
        line = self._line(LONGEST_NUMBER).strip()
        self._push(int(line.removesuffix(b"L")), 60 + len(line))

    def _long_int(self, size: int) -> None:
        if size > LONGEST_NUMBER:
            raise FormatError("a number in the pickle is impossibly long", found=f"{size} bytes")
        self._push(int.from_bytes(self._take(size), "little", signed=True), 60 + size)

    # -- containers ----------------------------------------------------------------------------------------------------

    def _tuple(self, items: list[Any]) -> None:
        self._push(tuple(items), _CONTAINER + 8 * len(items))

    def _last(self, count: int) -> None:
        items = self._stack[-count:]
        if len(items) != count:
            raise IndexError("too little on the stack")
        del self._stack[-count:]
        self._tuple(items)

    def _flat(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise FormatError("a key without a value")
        self._push(Dict(items), _CONTAINER + 8 * len(items))

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target += items
        elif isinstance(target, Thing):
            target.items += items
        else:
            raise FormatError("a value is appended to what is no list", found=type(target).__name__)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if len(items) % 2:
            raise FormatError("a key without a value")
        if isinstance(target, Dict):
            target.flat += items
        elif isinstance(target, Thing):
            target.pairs.flat += items
        else:
            raise FormatError("a value is stored in what is no dict", found=type(target).__name__)

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _add_items(self) -> None:
        items = self._since_mark()
        target = self._stack[-1]
        if not isinstance(target, Thing | Set) or (isinstance(target, Set) and target.frozen):
            raise FormatError("a value is added to what is no set", found=type(target).__name__)
        target.items += items

    # -- names and calls -----------------------------------------------------------------------------------------------

    def _name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise FormatError("a name in the pickle is no text", found=type(name).__name__)
        self._push(self._meaning.name(module, name), _CONTAINER)

    def _global(self) -> None:
        module = str(self._line(), "utf-8")
        self._name(module, str(self._line(), "utf-8"))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _call(self, function: Any, args: Any) -> None:
        if type(args) is not tuple:
            raise FormatError("a call in the pickle has no arguments", found=type(args).__name__)
        self._push(self._meaning.call(function, args), 2 * _CONTAINER)

    def _reduce(self) -> None:
        args = self._stack.pop()
        self._call(self._stack.pop(), args)

    def _new_ex(self) -> None:
        named, args, cls = self._stack.pop(), self._stack.pop(), self._stack.pop()
        if not isinstance(named, Dict) or type(args) is not tuple:
            raise FormatError("an object in the pickle has no arguments")
        self._call(cls, (*args, named) if named.flat else args)

    def _inst(self) -> None:
        self._global()
        function = self._stack.pop()
        self._call(function, tuple(self._since_mark()))

    def _obj(self) -> None:
        function, *args = self._since_mark()
        self._call(function, tuple(args))

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Thing):
            target.state.append(state)
        elif isinstance(target, Known):
            target.build(state)
        elif isinstance(target, Dict) and isinstance(state, Dict):
            target.attributes = state
        elif isinstance(target, Global):
            raise UnsafeContentError("the pickle changes a class or module rather than an object", found=str(target))
        else:
            raise FormatError("a state is set on what has none", found=type(target).__name__)

    def _persistent(self, key: Any) -> None:
        self._push(self._meaning.persistent(key), _CONTAINER)

    def _registered(self) -> None:
        raise UnsafeContentError("the pickle names something by its number in the registry of some process")

    def _outside(self) -> None:
        raise FormatError("the pickle refers to a buffer that is not in it")

    def _protocol(self) -> None:
        if (found := self._number(1)) > NEWEST:
            raise FormatError("a pickle of a newer protocol", expected=f"at most {NEWEST}", found=f"{found}")


def _text_or_bytes(raw: bytes) -> str | bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


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
    machine._memory += _MEMO


def _put_long(machine: Machine) -> None:
    at = machine._at
    machine._memo[_FOUR.unpack_from(machine._data, at)[0]] = machine._stack[-1]
    machine._at = at + 4
    machine._memory += _MEMO


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
    b"]": lambda m: m._push([], _CONTAINER),
    b"l": lambda m: m._push(m._since_mark(), _CONTAINER),
    b"a": lambda m: m._append([m._stack.pop()]),
    b"e": lambda m: m._append(m._since_mark()),
    b"}": lambda m: m._push(Dict(), _CONTAINER),
    b"d": lambda m: m._flat(m._since_mark()),
    b"s": Machine._set_item,
    b"u": lambda m: m._set_items(m._since_mark()),
    b"\x8f": lambda m: m._push(Set([]), _CONTAINER),
    b"\x90": Machine._add_items,
    b"\x91": lambda m: m._push(Set(m._since_mark(), frozen=True), _CONTAINER),
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
