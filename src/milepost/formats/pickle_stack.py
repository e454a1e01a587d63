"""What the opcodes of a pickle do: to a stack, to a memo, and to values that stand for others.

What a name stands for, and what a call would return, is asked of a `Meaning`, which knows a few harmless ones and otherwise notes
what was named. Nothing is imported or called. What the values take is counted, for `milepost.formats.pickle_machine` to bound.
"""

from __future__ import annotations

import codecs
from typing import Any, Protocol

from milepost.errors import FormatError, UnsafeContentError
from milepost.formats.pickle_operands import LONG, Operands
from milepost.formats.pickle_values import Dict, Global, Known, Set, Thing
from milepost.formats.place import Readable

LONGEST_NUMBER = 4096
"""Bytes of an int, or of a line of the text protocol that holds a number."""
LONGEST_TEXT_LINE = 16 * 1024 * 1024
"""Bytes of a text in protocol 0, which has to be read to find its end."""
CONTAINER, SLOT, MEMO = 160, 40, 64
"""Bytes, about."""


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


class Stack(Operands):
    """The values of one pickle.

    Args:
        source: what it is in.
        meaning: see `Meaning`.
        offset: where in `source` it begins.
    """

    def __init__(self, source: Readable, meaning: Meaning, offset: int = 0) -> None:
        super().__init__(source, offset)
        self._meaning = meaning
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks below each mark
        self._memo: dict[int, Any] = {}
        self._memory = 0

    def _push(self, value: Any, size: int = SLOT) -> None:
        self._memory += size
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marked.pop()
        return items

    def _mark(self) -> None:
        self._memory += CONTAINER
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
        self._memory += MEMO
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
            self._push(self._long(size, "bytes"), CONTAINER)
        else:
            self._push(self._take(size), 40 + size)

    def _text(self, size: int) -> None:
        if size > LONG:
            self._push(self._long(size, "str"), CONTAINER)
        else:
            self._push(str(self._take(size), "utf-8", "surrogatepass"), 60 + size)

    def _string(self, size: int) -> None:
        """A str of Python 2, which is text or bytes."""
        if size > LONG:
            self._push(self._long(size, "bytes"), CONTAINER)
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
        self._push(tuple(items), CONTAINER + 8 * len(items))

    def _last(self, count: int) -> None:
        items = self._stack[-count:]
        if len(items) != count:
            raise IndexError("too little on the stack")
        del self._stack[-count:]
        self._tuple(items)

    def _flat(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise FormatError("a key without a value")
        self._push(Dict(items), CONTAINER + 8 * len(items))

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
        self._push(self._meaning.name(module, name), CONTAINER)

    def _global(self) -> None:
        module = str(self._line(), "utf-8")
        self._name(module, str(self._line(), "utf-8"))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _call(self, function: Any, args: Any) -> None:
        if type(args) is not tuple:
            raise FormatError("a call in the pickle has no arguments", found=type(args).__name__)
        self._push(self._meaning.call(function, args), 2 * CONTAINER)

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
        self._push(self._meaning.persistent(key), CONTAINER)

    def _registered(self) -> None:
        raise UnsafeContentError("the pickle names something by its number in the registry of some process")

    def _outside(self) -> None:
        raise FormatError("the pickle refers to a buffer that is not in it")


def _text_or_bytes(raw: bytes) -> str | bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw
