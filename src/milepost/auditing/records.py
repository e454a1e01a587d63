"""What an audited process writes down: one line of JSON per moment between two batches, and samples of what had these digests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from milepost.core import dtypes
from milepost.core.leaves import Leaf

SAMPLE = 4096
"""Elements of a tensor that are kept, evenly spread, so that a difference can be told in numbers."""
MOST_SAMPLES, OF_FREE = 1 << 29, 20
"""Bytes of samples that a process keeps, and into which part of the free space they have to fit."""
TEXT = 200


THE_END = "(end)"
"""Stands for the loop that asks, in the last moment of a run."""


class Key(NamedTuple):
    """A moment of a run, by which processes are compared. `session` counts the attempts that one process made, `asker` is the
    loop that asked for its next batch."""

    session: int
    step: int
    epoch: int
    batch: int
    phase: str
    asker: str

    def __str__(self) -> str:
        if self.asker == THE_END:
            return f"step {self.step} (the end)"
        if not (self.epoch or self.batch or self.asker) and self.phase == "in-epoch":
            return f"step {self.step}"  # of a loop without epochs
        place = {
            "in-epoch": f"epoch {self.epoch}, batch {self.batch}",
            "batches-done": f"epoch {self.epoch}, all batches done",
            "epoch-ended": f"epoch {self.epoch - 1} ended",
        }.get(self.phase, self.phase)
        return f"step {self.step} ({place})" if place else f"step {self.step}"


class Batch(msgspec.Struct, array_like=True):
    """A batch that was handed out: by which loop, and the digest of each leaf."""

    loop: str
    leaves: dict[str, str]


class Seen(msgspec.Struct, omit_defaults=True):
    """What was seen at one moment: path -> digest. `batches` came since the moment before; `under_way` is the last batch of every
    loop; `opaque` could not be looked into; `kinds` says what the script's objects are, where they are first seen; `size` is
    that of the state in bytes; `made` is what forward and backward made, where that is looked at by itself."""

    key: Key
    state: dict[str, str] = {}
    rng: dict[str, str] = {}
    gradients: dict[str, str] = {}
    metrics: dict[str, str] = {}
    script: dict[str, str] = {}
    batches: list[Batch] = []
    under_way: dict[str, dict[str, str]] = {}
    opaque: list[str] = []
    kinds: dict[str, str] = {}
    size: int = 0
    made: dict[str, str] = {}


class Head(msgspec.Struct, omit_defaults=True):
    """The first line: whose run it is."""

    run: str
    scratch: str
    pid: int
    arguments: list[str]


class Log:
    """Appends what is seen to a file; every line is there before the script goes on."""

    def __init__(self, path: Path, head: Head) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = 0
        """Bytes that were written."""
        self._write(head)

    def write(self, seen: msgspec.Struct) -> None:
        """One moment."""
        self._write(seen)

    def _write(self, one: msgspec.Struct) -> None:
        line = msgspec.json.encode(one) + b"\n"
        self.size += len(line)
        while line:
            line = line[os.write(self._fd, line) :]


def read_log(path: Path) -> tuple[Head, list[Seen]]:
    """A log, up to where its process ended."""
    lines = path.read_bytes().split(b"\n")
    head = msgspec.json.decode(lines[0], type=Head)
    decode = msgspec.json.Decoder(Seen).decode
    return head, [decode(line) for line in lines[1:-1]]  # what has no end of line was cut off


def digest_of(leaf: Leaf) -> str:
    """32 hexadecimal digits: of a tensor's dtype, shape and bytes, or of a plain value."""
    hasher = xxhash.xxh3_128()
    if leaf.info is None:
        hasher.update(leaf.text())
    else:
        hasher.update(leaf.kind.encode())
        hasher.update(leaf.content())
    return hasher.hexdigest()


def opaque_batch(loop: str, leaf: Leaf) -> str:
    """What of a batch cannot be looked into, in words."""
    return f"a batch of {loop}{leaf.path and f', in it {leaf.path}'}: {leaf.kind} cannot be looked into"


class Index(msgspec.Struct, array_like=True):
    """Where the sample of a digest is: text, or `size` bytes at `offset` of elements of `dtype`, every `stride`-th one."""

    digest: str
    text: str
    offset: int = 0
    size: int = 0
    dtype: str = ""
    stride: int = 1


class Samples:
    """Keeps what had a digest, in part if it is large, in two files of one process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._data, self._index = path.with_suffix(".bin").open("wb"), path.with_suffix(".index").open("wb")
        self._known: set[str] = set()
        self._offset = 0
        self._most = min(MOST_SAMPLES, shutil.disk_usage(path.parent).free // OF_FREE)

    def put(self, digest: str, leaf: Leaf) -> None:
        """Keep `leaf`, unless it is kept already or there is too much."""
        if digest in self._known or self._offset > self._most:
            return
        self._known.add(digest)
        one = Index(digest, leaf.kind)
        if leaf.info is None:
            one.text = f"{leaf.kind} {leaf.value!r}"[:TEXT]
        elif leaf.info.dtype.numpy is not None and leaf.info.nbytes:
            flat = np.frombuffer(leaf.content(), leaf.info.dtype.numpy)
            one.stride = -(-len(flat) // SAMPLE)
            data = flat[:: one.stride].tobytes()
            one.offset, one.size, one.dtype = self._offset, len(data), leaf.info.dtype.name
            self._data.write(data)
            self._offset += len(data)
        self._index.write(msgspec.json.encode(one) + b"\n")

    def flush(self) -> None:
        """Make it readable for others."""
        self._data.flush()
        self._index.flush()


class Kept:
    """Reads the samples of any number of processes.

    Args:
        folders: where they are.
    """

    def __init__(self, *folders: Path) -> None:
        self._found: dict[str, tuple[Path, Index]] = {}
        for folder in folders:
            for path in sorted(folder.glob("*.index")):
                for line in path.read_bytes().splitlines():
                    try:
                        one = msgspec.json.decode(line, type=Index)
                    except msgspec.DecodeError:  # cut off by the end of its process
                        continue
                    self._found.setdefault(one.digest, (path.with_suffix(".bin"), one))

    def text(self, digest: str | None) -> str | None:
        """A plain value, or the kind of a tensor."""
        found = self._found.get(digest or "")
        return found[1].text if found is not None else None

    def values(self, digest: str | None) -> npt.NDArray[Any] | None:
        """The elements of a tensor that were kept."""
        found = self._found.get(digest or "")
        if found is None or not found[1].dtype:
            return None
        path, one = found
        with path.open("rb") as file:
            file.seek(one.offset)
            data = file.read(one.size)
        kind = dtypes.dtype(one.dtype).numpy
        return np.frombuffer(data, kind) if kind is not None and len(data) == one.size else None


def how_much(kept: Kept, before: str | None, now: str | None) -> str | None:
    """How far two leaves are apart, in words; None where neither was kept."""
    one, other = kept.values(before), kept.values(now)
    if one is None or other is None or one.shape != other.shape:
        texts = kept.text(before), kept.text(now)
        return f"expected {texts[0] or 'nothing'}, found {texts[1] or 'nothing'}" if any(texts) else None
    if one.dtype == np.bool_ or one.dtype.kind not in "iufcV":
        return f"{int((one != other).sum())} of {one.size} elements looked at"
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    apart = np.abs(other.astype(wide) - one.astype(wide))
    norm = float(np.linalg.norm(one.astype(wide)))
    relative = f", relative L2 {float(np.linalg.norm(apart)) / norm:.2e}" if norm > 0 else ""
    return f"max |difference| {float(apart.max(initial=0.0)):.3e}{relative}"


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """The paths whose digests differ, or that only one has."""
    yield from (path for path in before if now.get(path) != before[path])
    yield from (path for path in now if path not in before)
