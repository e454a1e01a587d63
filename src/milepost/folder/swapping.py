"""Gives a finished folder its name, whatever has that name already."""

from __future__ import annotations

import errno

from milepost.folder.fencing import exists
from milepost.storage.base import Storage

_CANNOT_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM})


def swap_in(storage: Storage, draft: str, final: str, aside: str) -> None:
    """Rename folder `draft` to `final`. A folder of that name is then called `draft`; where names cannot be exchanged it goes to
    `aside`, and for a moment nothing has the name.

    Raises:
        OSError: the storage refused; `final` is what it was.
    """
    if not exists(storage, final):
        storage.rename(draft, final)
        return
    try:
        storage.exchange(draft, final)
    except OSError as error:
        if error.errno not in _CANNOT_EXCHANGE:
            raise
        storage.rename(final, aside)
        try:
            storage.rename(draft, final)
        except OSError:
            storage.rename(aside, final)
            raise
