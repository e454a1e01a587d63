"""The runs of a script that `milepost audit` watches stand in scratch: whoever names one, in any process, means that one.

So ``milepost.open("runs/mnist")``, or a `milepost` command that the script starts, neither sees nor changes what the person has
there. Which runs the script opens is learnt from it: until then, every run that is there counts as one of those. A run that it
asked for and never opened is an input (``inputs`` in what it is told), and is read where it stands from then on.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from milepost.folder import names

SCRIPT_VARIABLE = "MILEPOST_AUDIT_SCRIPT"
"""As `VARIABLE`, for scripts that do not use milepost (`milepost.auditing.foreign`): nothing is redirected here."""
VARIABLE = "MILEPOST_AUDIT"
"""The environment variable that names the file which says what an audited process is to do."""
ASKED, OWN, MADE, STARTED = "asked-for", "reads-own", "made", "started"
"""Files beside that one. What of the person's the script asked for and did not see, in order: (`RUN`, a name) before it opened one
there, or (`FILE`, a path); that it read its own run, with saving off; folders that it made outside of scratch;
programs that it started with a path of a run and that are no Python."""
RUN, FILE = "run", "file"

on_read: list[Callable[[], None]] = []
"""Called when a run of the script is named."""


class Place(NamedTuple):
    """A path at or below a run of the script: `scratch` is where that run stands, `rest` follows it (``/step-00000005``,
    ``@best``); `real` is the run directory that the person sees, and `hidden` says that there is a run of theirs in it which
    the script is not to see."""

    scratch: str
    rest: str
    real: str
    hidden: bool
    is_input: bool = False

    @property
    def path(self) -> str:
        """Where the path leads to."""
        return self.scratch + self.rest


def redirected(ref: str) -> str:
    """`ref`, or where its run stands while it is audited.

    Args:
        ref: a path, maybe into a run directory, maybe followed by ``@WHICH``.
    """
    place = locate(ref)
    if place is None or place.is_input:
        return ref
    reads_own(place)
    return place.path


def locate(path: str) -> Place | None:
    """Where `path` leads to, if it is at or below a run of an audited script."""
    told = os.environ.get(VARIABLE)
    if not told or "://" in path:
        return None
    spec, path = _spec(told), os.path.abspath(path)
    if path.startswith(spec["runs"] + os.sep):  # it was led there before
        return None
    real = os.path.realpath(path)
    ends = {len(path), *(found.start() for found in re.finditer("[/@]", path))} - {0}
    for end in sorted(ends, reverse=True):
        place = path[:end] if real == path else os.path.realpath(path[:end])
        name = scratch_name(place, spec["cwd"])
        scratch, home = os.path.join(spec["runs"], name), _at_home(place, spec)
        if name in spec.get("inputs", ()):
            return Place(scratch, path[end:], home, hidden=False, is_input=True)
        is_run = os.path.isfile(os.path.join(home, names.RUN))
        known = name in spec.get("opened", ()) or os.path.isdir(scratch)
        if is_run and not known:
            tell(ASKED, (RUN, name))
        if is_run or known:
            return Place(scratch, path[end:], home, hidden=is_run)
    return None


def reads_own(place: Place) -> None:
    """What an audited script has saved is asked for. Its watcher knows what follows from that; of a child of the script, a file
    tells."""
    told = os.environ[VARIABLE]
    if not (on_read or _spec(told).get("saved")) and os.path.isfile(os.path.join(place.scratch, names.RUN)):
        tell(OWN, (RUN, place.scratch))
    for call in on_read:
        call()


def tell(what: str, found: tuple[str, str]) -> None:
    """Write a line into one of the files above, unless this process did before."""
    if (what, found) not in _told:
        _told.add((what, found))
        path = os.path.join(os.path.dirname(os.environ[VARIABLE]), what)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(handle, json.dumps(found).encode() + b"\n")
        os.close(handle)


def read_told(path: Path) -> list[tuple[str, str]]:
    """The lines of such a file, each once."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return list(dict.fromkeys((kind, text) for kind, text in map(json.loads, lines)))


_told: set[tuple[str, tuple[str, str]]] = set()


def scratch_name(place: str, cwd: str) -> str:
    """The name of the scratch directory for the run at `place`, the same in every process and copy of `cwd`. Both are real paths,
    without links."""
    known_as = os.path.relpath(place, cwd) if place.startswith(cwd + os.sep) else place
    return f"{os.path.basename(place)}-{xxhash.xxh3_64_hexdigest(known_as.encode())[:8]}"


def _at_home(place: str, spec: dict[str, Any]) -> str:
    """Where `place` is in the working directory that this process may have a copy of."""
    cwd, home = spec["cwd"], spec.get("home")
    return home + place[len(cwd) :] if home and place.startswith(cwd + os.sep) else place


@functools.cache
def _spec(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_bytes())
    return found
