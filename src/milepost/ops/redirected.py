"""The runs of a script that `milepost audit` watches stand in scratch: whoever names one, in any process, means that one.

So ``milepost.open("runs/mnist")``, or a `milepost` command that the script starts, neither sees nor changes what the person has
there.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from milepost.folder import names

SCRIPT_VARIABLE = "MILEPOST_AUDIT_SCRIPT"
"""As `VARIABLE`, for scripts that do not use milepost (`milepost.auditing.foreign`): nothing is redirected here."""
VARIABLE = "MILEPOST_AUDIT"
"""The environment variable that names the file which says what an audited process is to do."""
LOOKED, OWN = "looked-at", "reads-own"
"""Folder and file beside that one: runs that were read before the script opened one there; that one was read with saving off."""

on_read: list[Callable[[], None]] = []
"""Called when a run of the script is named."""


def redirected(ref: str) -> str:
    """`ref`, or where its run stands while it is audited.

    Args:
        ref: a path, maybe into a run directory, maybe followed by ``@WHICH``.
    """
    told = os.environ.get(VARIABLE)
    if not told or "://" in ref:
        return ref
    spec, path = _spec(told), os.path.abspath(ref)
    for end in sorted({len(path), *(found.start() for found in re.finditer("[/@]", path))} - {0}, reverse=True):
        place = os.path.realpath(path[:end])
        name = scratch_name(place, spec["cwd"])
        scratch = os.path.join(spec["runs"], name)
        if name in spec.get("known", ()) or os.path.isdir(scratch):
            if not spec.get("saved"):
                Path(told).with_name(OWN).touch()
            for call in on_read:
                call()
            return scratch + path[end:]
        if os.path.isfile(os.path.join(place, names.RUN)):
            Path(told).with_name(LOOKED).mkdir(exist_ok=True)
            Path(told).with_name(LOOKED).joinpath(name).touch()
    return ref


def scratch_name(place: str, cwd: str) -> str:
    """The name of the scratch directory for the run at `place`, the same in every process and copy of `cwd`. Both are real paths,
    without links."""
    known_as = os.path.relpath(place, cwd) if place.startswith(cwd + os.sep) else place
    return f"{os.path.basename(place)}-{xxhash.xxh3_64_hexdigest(known_as.encode())[:8]}"


@functools.cache
def _spec(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_bytes())
    return found
