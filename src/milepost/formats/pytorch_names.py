"""What names in the pickles of PyTorch mean, and what they refer to outside of the pickle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from milepost.errors import FormatError
from milepost.formats.pickle_known import Names
from milepost.formats.pickle_values import Long, short_bytes
from milepost.formats.place import Memory, Readable
from milepost.formats.pytorch_tensors import CONSTANTS, rebuilds

DEEPEST = 3
"""Files within files: storages that were pickled by themselves hold a whole file of torch.save."""


class TorchNames(Names):
    """The meaning of names in a file of torch.

    Args:
        persistent: persistent id -> storage.
        depth: files around this one.
    """

    def __init__(self, persistent: Callable[[Any], Any] | None = None, depth: int = 0) -> None:
        known = {**rebuilds(self.call), "torch.storage:_load_from_bytes": self._load_from_bytes}
        super().__init__(known, CONSTANTS)
        self._outside, self._depth = persistent, depth

    def persistent(self, key: Any) -> Any:
        return super().persistent(key) if self._outside is None else self._outside(key)

    def _load_from_bytes(self, data: Any) -> Any:
        """A storage that was pickled without torch.save: the bytes are what torch.save made of it."""
        from milepost.formats import pytorch_legacy

        if self._depth >= DEEPEST:
            raise FormatError("files within files within files")
        inner: Readable = (
            data.data
            if isinstance(data, Long) and data.kind == "bytes"
            else Memory(data.read() if isinstance(data, Long) else short_bytes(data), "a storage within the pickle")
        )
        return pytorch_legacy.read(inner, self._depth + 1)


def count_of(number: Any) -> int:
    """The number of elements that a pickle gives for a storage."""
    if type(number) is not int or not 0 <= number < 2**62:
        raise FormatError("a storage of an impossible size", found=repr(number)[:100])
    return number
