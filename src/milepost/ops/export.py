"""Writing what can be read as a checkpoint of another format: the libraries whose format it is write it, in adapters of theirs.

A writer is a module with ``export(source, destination, **options)``, which makes `destination` and returns an `Exported`; and with
``export_run(sources, destination, **options)`` if a folder of its format holds several steps. Another takes a line in `WRITERS`.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple, cast

from milepost.core.source import TensorSource
from milepost.errors import NotFoundError, ScriptError, StorageError
from milepost.ops import refs

WRITERS: dict[str, str] = {"orbax": "milepost.orbax.writer", "tensorflow": "milepost.tensorflow.writer"}
"""Name of a format -> module of its writer, which is imported when it is asked for."""
SUFFIXES: dict[str, str] = {}
"""How the name of a destination ends -> format, where nothing else is said."""


class Exported(NamedTuple):
    """What was written: checkpoints, tensors and their bytes, and the paths of what the format has no place for."""

    where: str
    format: str
    checkpoints: int
    tensors: int
    nbytes: int
    left_out: tuple[str, ...] = ()


def export(
    source: str | os.PathLike[str] | refs.Ref | TensorSource,
    destination: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - it is what one says
    whole_run: bool = False,
    **options: Any,
) -> Exported:
    """Write a checkpoint as another format. The destination appears whole or not at all, and what was written has been read back
    and compared.

    Args:
        source: a REF, or what `milepost.open` returned.
        destination: a new file or folder.
        format: a name in `WRITERS`; by default as the name of `destination` ends.
        whole_run: write all checkpoints of the run (or folder of checkpoints) that `source` is, each as one of `destination`.
        options: what the writer of the format takes.

    Raises:
        ScriptError: an unknown format or option; the destination exists.
        NotFoundError, FormatError, DamagedError: as `milepost.open`, and reading from the source.
        NotStorableError: something in the source is nothing that the format knows.
        StorageError: the destination cannot be written.

    Example:
        >>> milepost.export("runs/mnist@best", "orbax/469", format="orbax").tensors
        12
    """
    destination = os.path.expanduser(os.fspath(destination))
    name = format or SUFFIXES.get(os.path.splitext(destination)[1], "")
    write = _writer(name, "export_run" if whole_run else "export", options, destination)
    if os.path.lexists(destination):
        raise StorageError("something is at the destination already", where=destination, hint="name a new one")
    if whole_run:
        if isinstance(source, TensorSource):
            raise ScriptError("a whole run is named by its place", found=repr(source), expected="a run directory")
        return write(
            _all_of(source if isinstance(source, refs.Ref) else refs.Ref.parse(source)), destination, **options
        )
    return write(source if isinstance(source, TensorSource) else refs.open(source), destination, **options)


def _writer(name: str, function: str, options: dict[str, Any], destination: str) -> Callable[..., Exported]:
    """The function of a writer, if it takes `options`."""
    if name not in WRITERS:
        near = get_close_matches(name, WRITERS, 1)
        raise ScriptError(
            f"milepost writes no format {name!r}" if name else "which format is meant?",
            where=destination, expected=", ".join(sorted(WRITERS)), hint=f"did you mean {near[0]!r}?" if near else None,
        )  # fmt: skip
    write = getattr(importlib.import_module(WRITERS[name]), function, None)
    if write is None:
        raise ScriptError(f"format {name!r} holds one checkpoint, not a whole run", where=destination)
    known = list(inspect.signature(write).parameters)[2:]
    if unknown := sorted(options.keys() - set(known)):
        raise ScriptError(f"format {name!r} has no option {unknown[0]!r}", expected=", ".join(known) or "no options")
    return cast("Callable[..., Exported]", write)


def _all_of(ref: refs.Ref) -> Iterator[TensorSource]:
    """The checkpoints of a run that its newest attempt stands on, or those in a folder of another format, oldest first.

    Each is opened when it is asked for.

    Raises:
        NotFoundError: there is none.
        ScriptError: one of them is named.
    """
    if ref.which is not None:
        raise ScriptError("a whole run is meant, and one checkpoint of it is named", found=str(ref), hint=ref.place)
    if refs.is_run(ref.place):
        from milepost.folder.lineage import of_run

        by_step = {one.step: one.folder for one in reversed(of_run(refs.open_run(ref.place))) if one.current}
        found = [f"{ref.place}/{folder}" for folder in by_step.values()]
    else:
        from milepost.ops.sequence import members

        found = members(ref.place)
    if not found:
        raise NotFoundError("there is no checkpoint in it", where=ref.place)
    return (refs.open(refs.Ref(one)) for one in found)
