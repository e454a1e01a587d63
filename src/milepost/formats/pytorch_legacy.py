"""Files of ``torch.save`` before 1.6, or with ``_use_new_zipfile_serialization=False``.

They are five pickles: a magic number, a protocol version, what machine wrote it, the objects, and the keys of the storages; then
each storage, its length first.

The form before that, a tar archive (up to 0.1.9), is recognised and refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from milepost.core.source import TensorSource
from milepost.errors import FormatError
from milepost.formats.pickle_known import Names
from milepost.formats.pickle_machine import Machine
from milepost.formats.pickle_values import Dict
from milepost.formats.place import Ahead, File, Readable, Window
from milepost.formats.pytorch_names import TorchNames, count_of
from milepost.formats.pytorch_tensors import Storage, storage_class
from milepost.formats.pytorch_told import told
from milepost.formats.unpickled import Contents, PickledSource

_MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC_BYTES = _MAGIC.to_bytes(10, "little")
_PROTOCOL = 1001
_TAR_AT = 257


def recognises(file: File) -> bool:
    """Whether the first pickle is the magic number, in whatever protocol, or a tar archive's first member is one of torch's."""
    head = file.head[:64]
    if head.startswith(b"\x80"):
        return _MAGIC_BYTES in head
    if head.startswith(b"L"):
        return str(_MAGIC).encode() in head
    return _is_tar(file)


def open_source(file: File) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    if _is_tar(file):
        raise FormatError(
            "this is a PyTorch file of the oldest kind, a tar archive, which is not read", where=file.where,
            hint="torch.load opens it; save it anew with torch.save",
        )  # fmt: skip
    value = read(file)
    contents = Contents(file.where)
    contents.add(value, "")
    return PickledSource(file.where, contents, {"format": "a PyTorch file of the kind before 1.6", **told(value)})


def _is_tar(file: File) -> bool:
    return file.head[_TAR_AT : _TAR_AT + 5] == b"ustar" and file.head.startswith(
        (b"sys_info\0", b"pickle\0", b"storages\0", b"tensors\0", b"./")
    )


def read(source: Readable, depth: int = 0) -> Any:
    """The value in `source`, with its storages.

    Raises:
        FormatError: damaged, or of another version.
        UnsafeContentError: it was made to do harm.
    """
    found: dict[str, _Found] = {}

    def persistent(key: Any) -> Any:
        if type(key) is tuple and len(key) == 4 and key[0] == "module":
            return key[1]  # a class of torch.nn, beside which its source was saved
        if type(key) is not tuple or len(key) != 6 or key[0] != "storage" or type(key[2]) is not str:
            raise FormatError("the pickle refers to what is no storage", found=repr(key)[:100])
        _, named, name, _, count, view = key
        whole = found.setdefault(name, _Found(storage_class(named), count_of(count)))
        if (whole.cls, whole.count) != (storage_class(named), count):
            raise FormatError(f"storage {name[:100]!r} is of two kinds")
        return whole.part(view)

    names = Names()
    position = 0
    head = []
    for meaning in (names, names, names, TorchNames(persistent, depth), names):
        machine = Machine(source, meaning, position)
        head.append(machine.run())
        position = machine.position
    magic, protocol, machine_told, value, keys = head
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise FormatError(
            "a PyTorch file of a version that is not known", where=source.where, found=f"{protocol}"[:100]
        )
    little = not isinstance(machine_told, Dict) or machine_told.get("little_endian") is not False
    if type(keys) is not list or sorted(map(str, keys)) != sorted(found):
        raise FormatError("the list of storages does not fit the objects", where=source.where)
    ahead = Ahead(source)
    for key in keys:
        whole = found[key]
        count = int.from_bytes(ahead.read(position, 8), "little" if little else "big")
        if count != whole.count:
            raise FormatError(
                f"storage {key[:100]!r} has another size than the pickle says", where=source.where,
                expected=f"{whole.count} elements", found=f"{count}",
            )  # fmt: skip
        whole.place(source, position + 8, big_endian=not little)
        position += 8 + whole.nbytes
    if position > source.size:
        raise FormatError(
            "the file is cut short", where=source.where, expected=f"{position} bytes", found=f"{source.size}"
        )
    return value


class _Found:
    """A storage that the objects name, the place of which is only known once all are."""

    def __init__(self, cls: str, count: int) -> None:
        self.cls, self.count = cls, count
        self.nbytes = Storage(cls, count, _nowhere).nbytes
        self._parts: list[tuple[Storage, int]] = []

    def part(self, view: Any) -> Storage:
        """All of it, or the part that `view` (key, offset, size in elements) says."""
        offset, count = 0, self.count
        if view is not None:
            if type(view) is not tuple or len(view) != 3:
                raise FormatError("a view of a storage that cannot be", found=repr(view)[:100])
            offset, count = count_of(view[1]), count_of(view[2])
            if offset + count > self.count:
                raise FormatError("a view reaches beyond its storage", found=repr(view)[:100])
        made = Storage(self.cls, count, _nowhere)
        self._parts.append((made, offset * (made.kind.bits // 8)))
        return made

    def place(self, source: Readable, start: int, *, big_endian: bool) -> None:
        """Say where its bytes are."""
        for part, offset in self._parts:
            part.open = _window(source, start + offset, part.nbytes)
            part.big_endian = big_endian


def _window(source: Readable, offset: int, size: int) -> Callable[[], Readable]:
    return lambda: Window(source, offset, size)


def _nowhere() -> Readable:
    raise FormatError("a storage that is not in the file")
