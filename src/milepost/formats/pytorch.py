"""Files of ``torch.save`` and of TorchScript: zip archives, and the older form of several pickles in a row.

A zip has ``NAME/data.pkl`` (the objects), ``NAME/data/KEY`` (a storage each), ``byteorder``, ``version``; TorchScript also
``constants.pkl`` with ``constants/KEY`` and ``code/``, which is not looked at. The pickles are followed, never run.
"""

from __future__ import annotations

from typing import Any

from milepost.core.source import TensorSource
from milepost.errors import FormatError, UnsafeContentError
from milepost.formats import bounds, pytorch_legacy
from milepost.formats.archive import MAGIC, Archive, archive_of
from milepost.formats.pickle_machine import Machine
from milepost.formats.place import File, Folder
from milepost.formats.pytorch_names import TorchNames, count_of
from milepost.formats.pytorch_tensors import Storage, storage_class
from milepost.formats.pytorch_told import told
from milepost.formats.unpickled import Contents, PickledSource

NAME = "a PyTorch file"
LARGEST_NOTE = 4096
"""Bytes of members like ``version``."""
MOST_MEMBERS = 60_000


def recognises(place: File | Folder) -> bool:
    """See `milepost.formats.detect.FormatModule`."""
    if not isinstance(place, File):
        return False
    if place.head.startswith(MAGIC):
        return _prefix(archive_of(place)) is not None
    return pytorch_legacy.recognises(place)


def open_source(place: File | Folder) -> TensorSource:
    """See `milepost.formats.detect.FormatModule`."""
    assert isinstance(place, File)
    if not place.head.startswith(MAGIC):
        return pytorch_legacy.open_source(place)
    archive = archive_of(place)
    prefix = _prefix(archive)
    assert prefix is not None
    value = value_of(archive)
    version = _note(archive, f"{prefix}version") or _note(archive, f"{prefix}.data/version")
    script = f"{prefix}constants.pkl" in archive
    contents = Contents(place.where)
    contents.add(value, "")
    if script:
        constants = value_of(archive, "constants")
        if constants != ():
            contents.add(constants, "constants")
    metadata = {
        "format": "a TorchScript archive" if script else "a PyTorch file",
        **({"version": version} if version else {}),
        **told(value),
    }
    return PickledSource(place.where, contents, metadata)


def value_of(archive: Archive, name: str = "data") -> Any:
    """The value of ``data.pkl``, or of another pickle, in an archive of torch, with its storages.

    Raises:
        FormatError: damaged, or not of a kind that is read.
        UnsafeContentError: it was made to do harm.
    """
    prefix, where = _prefix(archive), archive.source.where
    if prefix is None or f"{prefix}data.pkl" not in archive:
        raise FormatError(
            "this is a PyTorch archive of a kind that is not read", where=where, found="no data.pkl in it"
        )
    _bounded(archive)
    order = _note(archive, f"{prefix}byteorder") or "little"
    if order not in ("little", "big"):
        raise FormatError("an unknown byte order", where=where, found=order[:100])
    return _unpickle(archive, prefix, name, big_endian=order == "big")


def _prefix(archive: Archive) -> str | None:
    """What the names of all members begin with (``archive/``), if it is one of PyTorch's."""
    first = next(iter(archive), "")
    prefix = first.partition("/")[0] + "/" if "/" in first else ""
    known = any(
        f"{prefix}{name}" in archive
        for name in ("data.pkl", "constants.pkl", "bytecode.pkl", "byteorder", ".data/version")
    )
    return prefix if known else None


def _bounded(archive: Archive) -> None:
    if len(archive) > bounds.most(MOST_MEMBERS):
        where, found = archive.source.where, len(archive)
        raise bounds.too_much("the archive has more members than are read", where, bound=MOST_MEMBERS, found=found)
    # torch looks members up without regard to case.
    folded = {name.casefold() for name in archive}
    if len(folded) != len(archive):
        raise UnsafeContentError("two members of the archive differ by case only", where=archive.source.where)


def _note(archive: Archive, name: str) -> str | None:
    if name not in archive:
        return None
    return archive.read(name, LARGEST_NOTE).decode("ascii", "replace").strip()


def _unpickle(archive: Archive, prefix: str, name: str, *, big_endian: bool) -> Any:
    """The value of ``NAME.pkl``, whose storages are in ``NAME/``."""
    pickle = archive.open(f"{prefix}{name}.pkl")

    def persistent(key: Any) -> Any:
        if type(key) is not tuple or len(key) != 5 or key[0] != "storage" or type(key[2]) is not str:
            raise FormatError("the pickle refers to what is no storage", found=repr(key)[:100])
        member = f"{prefix}{name}/{key[2]}"
        made = Storage(storage_class(key[1]), count_of(key[4]), lambda: archive.open(member), big_endian=big_endian)
        have = archive.member(member).size
        if have != made.nbytes:
            raise FormatError(
                f"storage {key[2][:100]!r} has another size than the pickle says",
                where=pickle.where, expected=f"{made.nbytes} bytes", found=f"{have} bytes",
            )  # fmt: skip
        return made

    machine = Machine(pickle, TorchNames(persistent))
    value = machine.run()
    if machine.position != pickle.size:
        raise UnsafeContentError(
            "something follows the pickle", where=pickle.where, found=f"{pickle.size - machine.position} bytes"
        )
    return value
