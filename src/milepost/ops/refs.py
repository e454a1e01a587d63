"""REF: how a checkpoint is named, on the command line and in Python alike.

``PLACE[@WHICH]``. PLACE is a run directory or a checkpoint folder, also one that was copied out of its run; or a file or folder of
another format. WHICH is ``latest`` (the default), ``best``, ``good``, ``step=1200``, ``~2``, a tag or the name of a checkpoint
folder (see `milepost.folder.which`). Runs have one, and folders in which other programs keep several (`milepost.ops.chosen`).

A path that exists as it stands is a PLACE, whatever is in its name. Otherwise the last ``@`` divides the two, unless
a ``/`` follows it: only the metric in ``best=METRIC`` may have one, and folders do.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from milepost.errors import FormatError, MilepostError, NotFoundError, ReferenceSyntaxError
from milepost.folder import names
from milepost.ops.redirected import redirected
from milepost.storage.base import Storage, storage_error
from milepost.storage.local import LocalStorage

if TYPE_CHECKING:  # what a file of another format does without, and a listing
    from milepost.core.source import TensorSource
    from milepost.folder.checkpoint import Checkpoint
    from milepost.folder.run import Listed, RunFolder

DEEPEST = 4
"""Levels of folders that `runs_below` goes down."""
_NO_AT = re.compile(r"(.+?)[:#/]?(~[0-9]+|step=[0-9]+|latest|best|good)")


class Ref(NamedTuple):
    """A place, and which checkpoint of it is meant (None where nothing was said).

    Example:
        >>> Ref.parse("runs/mnist@step=1200")
        Ref(place='runs/mnist', which='step=1200')
    """

    place: str
    which: str | None = None

    @classmethod
    def parse(cls, ref: str | os.PathLike[str]) -> Ref:
        """Read a REF.

        Raises:
            ReferenceSyntaxError: a part is missing, or the text can be no path.
        """
        text = os.fspath(ref) if isinstance(ref, (str, os.PathLike)) else None
        if not isinstance(text, str):
            raise ReferenceSyntaxError("a REF is a text or a path", found=repr(ref), expected="PLACE[@WHICH]")
        if "\0" in text:
            raise ReferenceSyntaxError("a path has no NUL in it", found=ascii(text))
        if not text:
            raise ReferenceSyntaxError("an empty REF", expected="PLACE[@WHICH]")
        text = redirected(os.path.expanduser(text))
        if os.path.lexists(text):
            return cls(text)
        place, at, which = text.rpartition("@")
        if not at or ("/" in which and not which.startswith("best=")):
            return cls(text)
        if not place:
            raise ReferenceSyntaxError(
                "a REF begins with a place", found=text, hint=f".{text} means the current folder"
            )
        if not which:
            raise ReferenceSyntaxError(
                "nothing follows the @", found=text, expected="latest, best, good, step=N, ~N or a tag"
            )
        return cls(place, which)

    def __str__(self) -> str:
        return self.place if self.which is None else f"{self.place}@{self.which}"


def open(ref: str | os.PathLike[str] | Ref) -> TensorSource:  # noqa: A001 - it is milepost.open
    """Open a checkpoint for reading, one of milepost or of another format; no framework is needed, and nothing in a file is
    executed. Its manifest, header or index is read and checked at once, tensors on demand.

    Raises:
        ReferenceSyntaxError: `ref` cannot be read.
        NotFoundError: there is no such place, or no such checkpoint in the run.
        MetricError: ``best`` in a run whose metric is not known.
        FormatError: no format that milepost reads, or one from a newer version; a damaged file of another format.
        UnsafeContentError: a file that was made to do harm.
        DamagedError: the manifest was changed or cut short.
        StorageError: the storage refused.

    Example:
        >>> milepost.open("runs/mnist@best")["model/fc1.weight"].shape
        (512, 784)
        >>> milepost.open("model.pt").plain["epoch"]
        12
    """
    ref = ref if isinstance(ref, Ref) else Ref.parse(ref)
    kind = _kind(ref.place)
    if kind in ("run", "checkpoint"):
        return open_checkpoint(ref)
    from milepost.formats.detect import open_source

    if ref.which is not None and kind in ("folder", "file"):
        from milepost.ops.chosen import open_member

        return open_member(ref.place, ref.which)
    source = None if kind in ("url", "nothing") else open_source(ref.place)
    if source is None:
        raise _nothing_of_ours(ref.place, kind, "a run directory, or a checkpoint of milepost or of another format")
    return source


def own(source: TensorSource) -> Checkpoint | None:
    """`source` as what it is, if it is a checkpoint of milepost."""
    module = sys.modules.get("milepost.folder.checkpoint")  # which opened it, if it is one
    return source if module is not None and isinstance(source, module.Checkpoint) else None


def open_checkpoint(ref: str | os.PathLike[str] | Ref) -> Checkpoint:
    """Open a checkpoint of milepost; raises as `open` does, `FormatError` too where another format would be read."""
    from milepost.folder.checkpoint import Checkpoint
    from milepost.folder.which import find

    ref = ref if isinstance(ref, Ref) else Ref.parse(ref)
    if _kind(ref.place) == "checkpoint":
        _one_only(ref)
        return Checkpoint(_checkpoint_storage(ref.place))
    run = open_run(ref.place)
    with wording("read the run", run.where):
        listed = find(run, ref.which or "latest")
        for _ in range(3):
            try:
                return Checkpoint(run.storage.child(listed.folder))
            except NotFoundError:
                # A live job may have removed it just now; `latest` is then another one.
                again = find(run, ref.which or "latest")
                if again.folder == listed.folder:
                    raise
                listed = again
        return Checkpoint(run.storage.child(listed.folder))


def open_run(place: str | os.PathLike[str]) -> RunFolder:
    """Open the run directory `place`.

    Raises:
        NotFoundError: it is not there, or is no run directory.
        FormatError: something else, or written by a newer milepost.
        StorageError: the storage refused.
    """
    from milepost.folder.run import RunFolder

    place = redirected(os.fspath(place))
    kind = _kind(place)
    if kind == "run":
        return RunFolder.open(LocalStorage(place))
    if kind == "checkpoint":
        run = _run_around(place)
        raise NotFoundError(
            "this is one checkpoint, not a run directory", where=place, hint=f"its run is {run}" if run else None
        )
    raise _nothing_of_ours(place, kind)


def run_of(ref: Ref) -> RunFolder:
    """The run that `ref` names, or that the checkpoint folder it names stands in.

    Raises:
        as `open_run` does; NotFoundError too if a checkpoint folder stands in no run.
    """
    if _kind(ref.place) != "checkpoint":
        return open_run(ref.place)
    _one_only(ref)
    around = _run_around(ref.place)
    if around is None or names.parse_step(_folder_name(ref.place)) is None:
        raise NotFoundError("this checkpoint folder stands in no run", where=ref.place)
    return open_run(around)


def locate(ref: str | os.PathLike[str] | Ref) -> tuple[RunFolder, Listed]:
    """The run and the checkpoint in it that `ref` names, by its summary alone.

    Raises:
        as `run_of` and `open` do.
    """
    from milepost.folder.which import find

    ref = ref if isinstance(ref, Ref) else Ref.parse(ref)
    run = run_of(ref)
    with wording("read the run", run.where):
        if _kind(ref.place) == "checkpoint":
            return run, run.look(_folder_name(ref.place))
        return run, find(run, ref.which or "latest")


def checkpoint_folders(ref: Ref) -> list[Storage]:
    """The checkpoint folders that `ref` means: one, or all of a run if it does not say which. They may be damaged.

    Raises:
        as `open` does, but for what is wrong inside a checkpoint.
    """
    if _kind(ref.place) == "checkpoint":
        _one_only(ref)
        return [_checkpoint_storage(ref.place)]
    from milepost.folder.which import find

    run = open_run(ref.place)
    with wording("read the run", run.where):
        if ref.which is not None:
            return [run.storage.child(find(run, ref.which).folder)]
        return [run.storage.child(name) for name in run.storage.list() if names.parse_step(name) is not None]


def is_run(place: str) -> bool:
    """Whether `place` is a run directory."""
    return os.path.isfile(os.path.join(redirected(place), names.RUN))


def is_checkpoint(place: str) -> bool:
    """Whether `place` is a checkpoint folder."""
    return os.path.isfile(os.path.join(redirected(place), names.MANIFEST))


def runs_below(
    folder: str, depth: int = DEEPEST, on_unreadable: Callable[[MilepostError], None] | None = None
) -> list[str]:
    """The run directories in `folder` (it may be one itself), as paths relative to what it is relative to, sorted.

    Symbolic links and hidden folders are not entered, nor are run directories.

    Args:
        folder: where to begin.
        depth: levels to go down.
        on_unreadable: told of folders that cannot be listed; without it they are errors.

    Raises:
        NotFoundError: there is no such folder.
        FormatError: it is something else.
        StorageError: it cannot be listed.
    """
    if not os.path.isdir(folder):
        raise _nothing_of_ours(folder, _kind(folder))
    found = []
    waiting = [(folder, 0)]
    while waiting:
        here, level = waiting.pop()
        if is_run(here):
            found.append(here)
            continue
        if level == depth:
            continue
        try:
            with wording("list the folder", here), os.scandir(here) as entries:
                inside = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except MilepostError as error:
            if on_unreadable is None or level == 0:
                raise
            on_unreadable(error)
            continue
        waiting += [
            (os.path.normpath(os.path.join(here, name)), level + 1) for name in inside if not name.startswith(".")
        ]
    return sorted(found)


@contextmanager
def wording(doing: str, where: str) -> Iterator[None]:
    """Turn what the storage raises into milepost's own errors."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, doing, error.filename or where) from error


def _kind(place: str) -> str:
    """What `place` is: "run", "checkpoint", "folder", "file", "url" or "nothing"."""
    if "://" in place:
        return "url"
    marks = {names.RUN: "run", names.MANIFEST: "checkpoint", "": "folder"}
    for name, kind in marks.items():
        with wording("look at the place", place), suppress(FileNotFoundError, NotADirectoryError):
            os.stat(os.path.join(place, name))
            return kind
    # A TensorFlow checkpoint is named by what the names of its files begin with.
    return "file" if os.path.lexists(place) or os.path.isfile(place + ".index") else "nothing"


def _checkpoint_storage(place: str) -> LocalStorage:
    # A link such as `latest` may be moved while the checkpoint is being read: follow it once.
    return LocalStorage(os.path.realpath(place) if os.path.islink(place.rstrip("/")) else place)


def _folder_name(place: str) -> str:
    return os.path.basename(_checkpoint_storage(place).root)


def _run_around(place: str) -> str | None:
    """The run directory that checkpoint folder `place` stands in, as it would be written; None if there is none."""
    above = os.path.dirname(_checkpoint_storage(place).root)
    if not is_run(above):
        return None
    return above if os.path.isabs(place) else os.path.relpath(above)


def _one_only(ref: Ref) -> None:
    if ref.which is not None:
        run = _run_around(ref.place)
        raise ReferenceSyntaxError(
            "a checkpoint folder is one checkpoint: @ follows a run directory",
            found=str(ref),
            hint=f"{run}@{ref.which}" if run else None,
        )


def _nothing_of_ours(
    place: str, kind: str, expected: str = "a run directory or a checkpoint folder of milepost"
) -> MilepostError:
    """The error for a place that is neither run nor checkpoint."""
    if kind == "url":
        return FormatError("milepost opens folders on this machine, not URLs", where=place, expected=expected)
    if kind == "nothing":
        near = _without_at(place) or _similar(place)
        return NotFoundError(
            "there is nothing at this place",
            where=place,
            expected=expected,
            hint=f"did you mean {near}?" if near else None,
        )
    if os.path.basename(place) in (names.RUN, names.MANIFEST):
        return FormatError("name the folder, not the file in it", where=place, hint=os.path.dirname(place) or ".")
    from milepost.formats.detect import describe

    found = describe(place)
    if found is not None:
        return FormatError("this is of another format", where=place, expected=expected, found=found)
    if kind == "file":
        return FormatError(
            "this is no checkpoint that milepost can read", where=place, expected=expected, found="a file"
        )
    if os.path.isdir(os.path.join(place, names.ATTEMPTS)):
        return NotFoundError(f"this run directory has lost its {names.RUN}", where=place, expected=expected)
    return NotFoundError(
        "this folder is neither a run directory nor a checkpoint",
        where=place,
        expected=expected,
        hint="`milepost ls FOLDER` lists the runs below a folder",
    )


def _without_at(place: str) -> str | None:
    """The REF that was meant by `place`, if it is one but for its @: ``runs/mnist~2``, ``runs/mnist:best``."""
    found = _NO_AT.fullmatch(place)
    return f"{found[1]}@{found[2]}" if found is not None and os.path.isdir(found[1]) else None


def _similar(place: str) -> str | None:
    """A name beside `place` that is much like it, as a path; None if there is none."""
    folder, name = os.path.split(place.rstrip("/"))
    try:
        near = get_close_matches(name, os.listdir(folder or "."), 1)
    except OSError:
        return None  # then the folder above is what is missing
    return os.path.join(folder, near[0]) if near else None
