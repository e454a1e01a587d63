"""Files and folders that appear whole or not at all: made beside their place, synced, and renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from milepost.errors import StorageError
from milepost.ops.refs import wording


@contextmanager
def workspace(destination: str) -> Iterator[str]:
    """A new folder beside `destination`, for what is to become it (`publish`); it is removed in the end.

    Raises:
        StorageError: something is at `destination`, or it cannot be written there.
    """
    above = os.path.dirname(os.path.abspath(destination))
    with wording("make the folder", above):
        if os.path.lexists(destination):
            raise StorageError("something is at the destination already", where=destination, hint="name a new one")
        os.makedirs(above, exist_ok=True)
        made = tempfile.mkdtemp(prefix=f".{os.path.basename(destination)}.milepost-", dir=above)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def publish(made: str, destination: str) -> None:
    """Sync all of `made`, a file or folder, and rename it to `destination`.

    Raises:
        StorageError: the storage refused, or something came to be there meanwhile.
    """
    with wording("write to the destination", destination):
        if os.path.isdir(made):
            for folder, _, names in os.walk(made, topdown=False):
                for name in names:
                    _sync(os.path.join(folder, name))
                _sync(folder)
        else:
            _sync(made)
        if os.path.lexists(destination):
            raise StorageError("something came to be at the destination meanwhile", where=destination)
        os.rename(made, destination)
        _sync(os.path.dirname(os.path.abspath(destination)))


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
