"""``manifest.json``: the only metadata of a checkpoint, and the only place where its bytes are described.

One JSON object over several lines, in this order::

    {"summary": {...},        at most 4 KiB with its line end, so that a listing reads one block per checkpoint
    "items": {...},           the structure of each item, with plain values inline (see `core.values`)
    "tensors": {...},         path -> dtype, shape, strides, shards -> (file, key, digest, finite)
    "files": {...},           name -> size, digest, plain
    "written_by": {...},      versions, host, command, git commit, job
    "digest": "xxh3-128:…"}   of all bytes above this line

Readers ignore fields they do not know; a writer that copies a manifest keeps them. A new *major* version is refused untouched.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from milepost.core.contradictions import refuse_contradictions
from milepost.core.readjson import Unreadable, read_json
from milepost.errors import DamagedError, FormatError

FORMAT = "1.1"
"""1.1 has `Tensor.variant`, and writes boxes."""
SUMMARY_BYTES = 4096
LONGEST_REASON = 400
"""Characters of `Summary.why_not_good`: names of tensors have any length, and the summary has not."""
NOT_FINITE = frozenset({"nan", "inf", "-inf"})
"""The text of the metrics that JSON has no number for."""


class Shard(msgspec.Struct, omit_defaults=True, frozen=True):
    """A box of a tensor and where its bytes are: entry `key` of `file`. Without `offset` and `shape` it is the whole tensor."""

    file: str
    key: str
    digest: str
    finite: bool | None = None
    offset: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None


class Tensor(msgspec.Struct, omit_defaults=True, frozen=True):
    """One tensor.

    `strides` (in elements) are kept where the live tensor was not C-contiguous; the file always holds C order. `same_as` names the
    tensor of the same item that this one was tied to (then `shards` is empty). `type` is the framework whose tensor it was,
    `variant` what that needs beside dtype and shape to make it anew (JAX: ``weak``, or ``key<threefry2x32>`` for typed keys).
    `trained` marks parameters and optimizer state, whose finiteness decides whether the checkpoint is good.
    """

    dtype: str
    shape: tuple[int, ...]
    shards: tuple[Shard, ...] = ()
    strides: tuple[int, ...] | None = None
    same_as: str | None = None
    type: str = "numpy"
    device: str | None = None
    trained: bool = False
    variant: str | None = None


class File(msgspec.Struct, omit_defaults=True, frozen=True):
    """One file. Its digest is that of the header's bytes followed by the 16-byte digests of its entries in file order, so
    it covers every byte and costs no second pass. `plain`: a complete item in safetensors' own dtypes."""

    size: int
    digest: str
    plain: bool = False


class Summary(msgspec.Struct, omit_defaults=True, frozen=True):
    """What a listing shows. `time` is ISO 8601 in UTC; sizes are bytes; `new_bytes` excludes what is shared by hard link."""

    format: str
    run: str
    attempt: int
    step: int
    epoch: int = 0
    batch: int = 0
    phase: str = "in-epoch"
    time: str = ""
    metrics: dict[str, float | str] = {}
    metrics_left_out: int = 0
    tensors: int = 0
    bytes: int = 0
    new_bytes: int = 0
    good: bool = True
    why_not_good: str | None = None

    def metric(self, name: str) -> float | None:
        """Metric `name`, or None; NaN and infinities are kept as text in JSON and come back as floats."""
        value = self.metrics.get(name)
        return None if value is None else float(value)


class Manifest(msgspec.Struct, omit_defaults=True, frozen=True):
    """A whole manifest."""

    summary: Summary
    items: dict[str, Any]
    tensors: dict[str, Tensor]
    files: dict[str, File]
    written_by: dict[str, Any] = {}


def plain_metrics(metrics: dict[str, float]) -> dict[str, float | str]:
    """Metrics as JSON has them: NaN and infinities become text."""
    return {name: value if math.isfinite(value) else repr(value) for name, value in metrics.items()}


def encode(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``."""
    from milepost.core.digest import digest  # with numpy, which takes longer to import than 1,000 summaries to read

    summary = msgspec.json.encode(_bounded(manifest.summary))
    parts = [b'{"summary": ' + summary]
    for field in ("items", "tensors", "files", "written_by"):
        value = getattr(manifest, field)
        # One line for each entry: readable with any pager, and still plain JSON.
        lines = b",\n".join(
            b"  " + msgspec.json.encode(key) + b": " + msgspec.json.encode(entry) for key, entry in value.items()
        )
        parts.append(b'"' + field.encode() + (b'": {\n' + lines + b"\n}" if lines else b'": {}'))
    body = b",\n".join(parts) + b",\n"
    return body + b'"digest": "' + digest(body).encode() + b'"}\n'


def _bounded(summary: Summary) -> Summary:
    """`summary`, with so many metrics left out (the last ones) that its line fits into `SUMMARY_BYTES`."""
    left_out = 0
    reason = summary.why_not_good
    if reason is not None and len(reason) > LONGEST_REASON:
        summary = msgspec.structs.replace(summary, why_not_good=reason[: LONGEST_REASON - 1] + "…")
    room = SUMMARY_BYTES - len('{"summary": ,\n')
    while len(msgspec.json.encode(summary)) > room and summary.metrics:
        kept = dict(list(summary.metrics.items())[: len(summary.metrics) // 2])
        left_out += len(summary.metrics) - len(kept)
        summary = msgspec.structs.replace(summary, metrics=kept, metrics_left_out=left_out)
    return summary


def decode(data: bytes, where: str) -> Manifest:
    """Read a manifest, checking its digest.

    Raises:
        FormatError: written by a newer major version.
        DamagedError: cut short, changed since it was written, or contradicting itself.
    """
    from milepost.core.digest import digest

    body, mark, tail = data.rpartition(b'"digest": "')
    # The version is looked at before the digest: a newer format may put its digest elsewhere.
    try:
        summary = decode_summary(data, where)
    except DamagedError:
        if mark and digest(body) == tail.partition(b'"')[0].decode("ascii", "replace"):
            raise FormatError("not a manifest of a checkpoint", where=where) from None
        raise
    if not mark or tail != digest(body).encode() + b'"}\n':
        raise DamagedError(
            "the manifest is cut short or was changed", where=where, hint="use another checkpoint of the run"
        )
    try:
        manifest = msgspec.structs.replace(read_json(data, Manifest), summary=summary)
    except Unreadable as error:
        raise FormatError("the manifest cannot be understood", where=where, found=error) from error
    refuse_contradictions(manifest, where)
    return manifest


def decode_summary(head: bytes, where: str) -> Summary:
    """The summary from the first `SUMMARY_BYTES` of a manifest (its digest is not checked).

    Raises:
        FormatError: written by a newer major version.
        DamagedError: cannot be read.
    """
    line = head.partition(b"\n")[0].removesuffix(b",")
    prefix = b'{"summary": '
    try:
        if not line.startswith(prefix):
            raise Unreadable("it does not begin with a summary")
        version = read_json(line[len(prefix) :], _Version).format
        check_version(version, where)
        summary = read_json(line[len(prefix) :], Summary)
        if any(isinstance(value, str) and value not in NOT_FINITE for value in summary.metrics.values()):
            raise Unreadable("a metric is no number")
        if summary.step < 0 or summary.attempt < 0:
            raise Unreadable("it counts below zero")
        return summary
    except Unreadable as error:
        raise DamagedError("the summary of the manifest cannot be read", where=where, found=error) from error


class _Version(msgspec.Struct):
    format: str


def check_version(version: str, where: str) -> None:
    """Refuse what a newer major version wrote; `FormatError`."""
    major, ours = version.partition(".")[0], FORMAT.partition(".")[0]
    if major != ours:
        raise FormatError(
            "this was written in another version of the format",
            where=where,
            expected=f"format {ours}.x",
            found=f"format {version}",
            hint="update milepost: pip install --upgrade milepost" if major > ours else None,
        )
