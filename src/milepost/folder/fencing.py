"""Taking an earlier attempt's work folder away, and putting back what was in it by right."""

from __future__ import annotations

import contextlib
import errno

import msgspec

from milepost.core.manifest import SUMMARY_BYTES, decode_summary
from milepost.core.readjson import read_json
from milepost.errors import DamagedError, FormatError
from milepost.folder import names
from milepost.storage.base import Storage

TRIES = 10


def fence(run: Storage, number: int) -> None:
    """Take the work folder of attempt `number` away: nothing it still does becomes visible. Then clear it.

    A committed checkpoint may stand in it, if the attempt ended while it was giving a new one the same name: it gets its
    name back where nothing has taken it. Others may fence the same attempt at the same time.
    """
    work, fenced = names.attempt_work(number), names.attempt_fenced(number)
    if exists(run, work):
        with contextlib.suppress(FileNotFoundError):  # it ended by itself just now, or somebody else was faster
            run.rename(work, fenced)
        run.sync_dir(names.ATTEMPTS)
    for tries_left in reversed(range(TRIES)):
        try:
            if exists(run, fenced):
                run.sync_dir()  # what it published in its last moment is durable before anybody continues it
                clear(run, fenced, number, _identity(run))
                run.remove_tree(fenced)
            return
        except OSError as error:
            # Somebody clears it too, or a call of the fenced attempt that had found its way in before came to its end.
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST) or not tries_left:
                raise


def clear(run: Storage, folder: str, number: int, identity: str) -> None:
    """Empty the work folder of attempt `number` of run `identity`: a checkpoint that waits there for a successor that did not come
    gets its name back, one that was replaced is put away, drafts and what retention threw away go."""
    if not run.list(folder):
        return
    # A rename that the attempt had begun before it was fenced may still move a draft out, since the kernel finds the folder first
    # and moves then. Under another name it finds none any more: each draft is out, whole, or stays.
    for name in run.list(folder):
        if names.parse_step(name) is not None:
            with contextlib.suppress(FileNotFoundError):
                run.rename(f"{folder}/{name}", _free(run, f"{folder}/{names.DROPPED}{name}"))
    for name in run.list(folder):
        committed = name.removeprefix(names.OLD)
        if committed != name and not exists(run, committed):
            run.rename(f"{folder}/{name}", committed)
    # Whatever came in here, and whatever took its place, is durable before anything goes.
    run.sync_dir()
    run.sync_dir(folder)
    for name in run.list(folder):
        if name.startswith((names.OLD, names.DROPPED)):
            put_away(run, f"{folder}/{name}", number, identity)
        else:
            run.remove_tree(f"{folder}/{name}")
    run.sync_dir()


def put_away(run: Storage, folder: str, number: int, identity: str) -> None:
    """Deal with a folder that attempt `number` of run `identity` swapped out or never finished: a checkpoint of another attempt,
    run or version of the format is kept under a name that says it was superseded; anything else is removed."""
    parent, _, name = folder.rpartition("/")
    if name.startswith(names.OLD):
        # It would get its name back, were it found so after a crash: never with half of its files gone.
        dropped = _free(run, f"{parent}/{names.DROPPED}{name}")
        run.rename(folder, dropped)
        run.sync_dir(parent)
        folder = dropped
    path = f"{folder}/{names.MANIFEST}"
    attempt = 0
    try:
        summary = decode_summary(run.read(path, 0, SUMMARY_BYTES), path)
        attempt, own = summary.attempt, (summary.run, summary.attempt) == (identity, number)
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        own = True  # without a readable manifest it is no checkpoint
    except FormatError:
        own = False
    if own:
        run.remove_tree(folder)
    else:
        run.rename(folder, _free(run, names.superseded(names.step_in(name), attempt)))


def _free(run: Storage, path: str) -> str:
    """`path`, or the first of ``path.2``, ``path.3`` ... that nothing has."""
    count, free = 1, path
    while exists(run, free):
        count += 1
        free = f"{path}.{count}"
    return free


def _identity(run: Storage) -> str:
    return read_json(run.read(names.RUN), _Identity).run


class _Identity(msgspec.Struct):
    run: str


def exists(run: Storage, path: str) -> bool:
    """Whether there is anything at `path`."""
    try:
        run.stat(path)
    except FileNotFoundError:
        return False
    return True
