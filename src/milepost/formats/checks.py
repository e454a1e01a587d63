"""Every byte against the checksums that a format has: which each does, and what has none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from milepost.core.source import TensorSource
from milepost.errors import DamagedError, FormatError, MilepostError, StorageError
from milepost.formats import distributed
from milepost.formats.archive import MAGIC, Archive, archive_of
from milepost.formats.detect import find, open_place
from milepost.formats.distributed import Distributed
from milepost.formats.hdf5 import Hdf5
from milepost.formats.orbax import Orbax
from milepost.formats.place import File, Folder, Readable
from milepost.formats.tf_bundle import Bundle

OnBlock = Callable[[int], None]


class Checked(NamedTuple):
    """One part of a checkpoint: `against` is what its bytes were compared with, None if nothing is known to compare with; `problem`
    None if it is well."""

    name: str
    nbytes: int
    against: str | None
    problem: MilepostError | None = None


def check(place: File | Folder, on_block: OnBlock, *, quick: bool = False) -> list[Checked]:
    """Look at all of `place`. Its structure is read in any case, and all of it alone if `quick`; then the bytes are compared with
    the checksums that there are.

    Raises:
        FormatError: no format is recognised.
    """
    name = os.path.basename(place.where.rstrip("/")) or place.where
    try:
        source = open_place(place)
    except (DamagedError, FormatError) as error:
        return [Checked(name, 0, "structure", error)]
    if source is None:
        raise FormatError("this is no checkpoint that milepost can read", where=place.where)
    if quick:
        return [Checked(name, 0, None)]
    if isinstance(place, File) and place.head.startswith(MAGIC):
        return _members(place, on_block)
    if isinstance(place, Folder) and isinstance(source, Distributed):
        return [*_records(source, on_block), *_parts(place, on_block)]
    if isinstance(source, Bundle):
        return list(_tensors(source, list(source), "CRC-32C", on_block))
    if isinstance(source, Orbax):
        # OCDBT has checksums of what says where arrays are, and none of the arrays: they are read, and nothing is proven.
        return list(_tensors(source, list(source), None, on_block))
    if isinstance(source, Hdf5):
        return _of_hdf5(source, name, on_block)
    if isinstance(place, Folder):
        return _parts(place, on_block) or [Checked(name, 0, None)]
    return [Checked(name, 0, None)]


def _members(file: File, on_block: OnBlock) -> list[Checked]:
    archive = archive_of(file)
    if not any(archive.member(name).crc for name in archive):
        return [Checked(file.name, 0, None)]  # torch.serialization.set_crc32_options(False)
    found = []
    for name in archive:
        problem = _problem(lambda name=name: archive.check(name, on_block))  # type: ignore[misc]
        found.append(Checked(name, archive.member(name).size, "CRC-32", problem))
    return found


def _records(source: Distributed, on_block: OnBlock) -> Iterator[Checked]:
    """Tensors and objects of a folder of torch.distributed.checkpoint, whose files consist of archives one after the other."""
    for path, records in source.records.items():
        read, proven, problem = 0, True, None
        for record in records:
            problem = problem or _problem(lambda record=record: _record(record, on_block))  # type: ignore[misc]
            read += record.size
            proven &= problem is not None or any(Archive(record).member(name).crc for name in Archive(record))
        yield Checked(path, read, "CRC-32" if proven else None, problem)


def _record(record: Readable, on_block: OnBlock) -> None:
    archive = Archive(record)
    if any(archive.member(name).crc for name in archive):
        for name in archive:
            archive.check(name, on_block)


def _tensors(source: TensorSource, paths: list[str], against: str | None, on_block: OnBlock) -> Iterator[Checked]:
    for path in paths:
        problem = _problem(lambda path=path: source[path])  # type: ignore[misc]
        on_block(source.specs[path].nbytes)
        yield Checked(path, source.specs[path].nbytes, against, problem)


def _of_hdf5(source: Hdf5, name: str, on_block: OnBlock) -> list[Checked]:
    checked = source.checked()
    found = list(_tensors(source, [path for path in source if path in checked], "Fletcher-32", on_block))
    return found if len(found) == len(source) and found else [*found, Checked(name, 0, None)]


def _parts(folder: Folder, on_block: OnBlock) -> list[Checked]:
    """What is in each file of `folder` that is a checkpoint by itself, and in folders of what was sharded over processes."""
    found = []
    for name in folder.names:
        if name == distributed.METADATA or name.endswith(distributed.SUFFIX):
            continue  # what is in these is told by both
        try:
            part = _part(folder, name)
        except (DamagedError, FormatError, StorageError) as error:
            found.append(Checked(name, 0, "structure", error))
            continue
        if part is not None:
            found += [
                one._replace(name=f"{name}: {one.name}" if one.name != name else name) for one in check(part, on_block)
            ]
    return found


def _part(folder: Folder, name: str) -> File | Folder | None:
    """The file or folder `name`, if it is a part of the checkpoint."""
    if folder.has(name):
        file = folder.file(name)
        return None if find(file) is None else file
    if not os.path.isdir(os.path.join(folder.where, name)):
        return None
    inner = folder.folder(name)
    return inner if distributed.recognises(inner) else None


def _problem(act: Callable[[], object]) -> MilepostError | None:
    try:
        act()
    except (DamagedError, FormatError, StorageError) as error:
        return error
    return None
