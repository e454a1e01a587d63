"""Tags: names that a person gave to checkpoints. A tagged checkpoint is never removed by retention."""

from __future__ import annotations

import re

import msgspec

from milepost.core.readjson import Unreadable, read_json
from milepost.errors import DamagedError, NotFoundError, ReferenceSyntaxError
from milepost.folder import names
from milepost.folder.run import Listed, RunFolder, make_folder_if_missing

RESERVED = frozenset({"latest", "best", "good", "never"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Tag(msgspec.Struct, frozen=True):
    """The checkpoint a tag names: what `attempt` saved at `step`, wherever its folder is now."""

    attempt: int
    step: int


def read_tags(run: RunFolder) -> dict[str, Tag]:
    """All tags by name."""
    found = {}
    try:
        files = run.storage.list(names.TAGS)
    except FileNotFoundError:
        return {}
    for file in files:
        if file.endswith(".json") and not file.startswith("."):
            path = f"{names.TAGS}/{file}"
            try:
                found[file.removesuffix(".json")] = read_json(run.storage.read(path), Tag)
            except FileNotFoundError:
                continue  # removed just now
            except Unreadable as error:
                raise DamagedError("a tag cannot be read", where=f"{run.where}/{path}", found=error) from error
    return found


def set_tag(run: RunFolder, name: str, checkpoint: Listed) -> None:
    """Give `checkpoint` the tag `name`, taking it from another.

    Raises:
        ReferenceSyntaxError: the name cannot be told from other ways to name a checkpoint.
        DamagedError: the checkpoint's summary cannot be read.
    """
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise ReferenceSyntaxError(
            "this cannot be the name of a tag",
            found=ascii(name),
            expected="letters, digits, dot, dash and underscore; not " + ", ".join(sorted(RESERVED)),
        )
    if checkpoint.summary is None:
        raise DamagedError("a damaged checkpoint cannot be tagged", where=f"{run.where}/{checkpoint.folder}")
    make_folder_if_missing(run.storage, names.TAGS)
    tag = Tag(checkpoint.summary.attempt, checkpoint.step)
    run.storage.write(f"{names.TAGS}/{name}.json", msgspec.json.encode(tag) + b"\n", replace=True)
    run.storage.sync_dir(names.TAGS)


def remove_tag(run: RunFolder, name: str) -> None:
    """Remove tag `name`; `NotFoundError` if there is none."""
    if name not in read_tags(run):
        raise NotFoundError(f"there is no tag {name!r}", where=run.where, expected=", ".join(read_tags(run)) or "none")
    run.storage.remove(f"{names.TAGS}/{name}.json")
    run.storage.sync_dir(names.TAGS)


def pin_name(checkpoint: Listed) -> str:
    """The tag that `milepost pin` gives."""
    assert checkpoint.summary is not None
    return f"pinned-{checkpoint.step}-{checkpoint.summary.attempt}"
