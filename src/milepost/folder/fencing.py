"""Taking an earlier attempt's work folder away, and putting back what was in it by right."""

from __future__ import annotations

import msgspec

from milepost.core.manifest import SUMMARY_BYTES, decode_summary
from milepost.errors import MilepostError
from milepost.folder import names
from milepost.storage.base import Storage


def fence(run: Storage, number: int) -> None:
    """Take the work folder of attempt `number` away: nothing it still does becomes visible. Then clear it.

    A committed checkpoint may stand in it, if the attempt ended while it was giving a new one the same name: it gets its name
    back where nothing has taken it.
    """
    fenced = names.attempt_fenced(number)
    if exists(run, names.attempt_work(number)):
        try:
            run.rename(names.attempt_work(number), fenced)
            run.sync_dir(names.ATTEMPTS)
        except FileNotFoundError:
            return  # it ended by itself just now
    if not exists(run, fenced):
        return
    for name in run.list(fenced):
        committed = name.removeprefix("old-")
        if names.parse_step(committed) is None:
            continue
        if committed != name and not exists(run, committed):
            run.rename(f"{fenced}/{name}", committed)
        else:
            put_away(run, f"{fenced}/{name}", number, _identity(run))
    run.sync_dir()
    run.remove_tree(fenced)


def put_away(run: Storage, folder: str, number: int, identity: str) -> None:
    """Deal with a folder that attempt `number` of run `identity` swapped out or never finished: a checkpoint of another attempt or
    run is kept under a name that says it was superseded; anything else is removed."""
    path = f"{folder}/{names.MANIFEST}"
    try:
        summary = decode_summary(run.read(path, 0, SUMMARY_BYTES), path)
    except (OSError, MilepostError):
        run.remove_tree(folder)  # without a readable manifest it is no checkpoint
        return
    if (summary.run, summary.attempt) == (identity, number):
        run.remove_tree(folder)
        return
    name = names.superseded(summary.step, summary.attempt)
    count, free = 1, name
    while exists(run, free):
        count += 1
        free = f"{name}.{count}"
    run.rename(folder, free)


def _identity(run: Storage) -> str:
    return msgspec.json.decode(run.read(names.RUN), type=_Identity).run


class _Identity(msgspec.Struct):
    run: str


def exists(run: Storage, path: str) -> bool:
    """Whether there is anything at `path`."""
    try:
        run.stat(path)
    except FileNotFoundError:
        return False
    return True
