"""What is in a checkpoint, without reading a tensor: the tree of its state, its files, and what they share with other
checkpoints."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from milepost.core.source import TensorSpec

if TYPE_CHECKING:
    from milepost.core import tree
    from milepost.folder.checkpoint import Checkpoint


class FileInfo(NamedTuple):
    """One file. `plain`: a complete item that any safetensors tool opens. `names` counts the names the file has on
    disk: more than one if other checkpoints share it, 0 if it is missing."""

    name: str
    size: int
    plain: bool
    names: int


class Entry(NamedTuple):
    """One value of the state.

    `kind` is ``tensor``, ``dict``, ``int``, ``numpy.float32`` ...; `spec` is there for tensors; `size` counts the
    values in a container. `nbytes` are those of the tensor, or of all below a container; `shared` the part of them in
    files that other checkpoints share. `tied_to` names the tensor whose bytes this one has. `text` is a plain value
    in one line, not escaped.
    """

    path: str
    depth: int
    kind: str
    spec: TensorSpec | None
    size: int | None
    nbytes: int
    shared: int
    tied_to: str | None
    shards: int
    finite: bool
    encoded: Any
    text: str


def files_of(checkpoint: Checkpoint) -> list[FileInfo]:
    """The files of a checkpoint, as its manifest names them.

    Raises:
        OSError: the storage refused.
    """
    found = []
    for name, file in checkpoint.manifest.files.items():
        try:
            links = checkpoint.storage.stat(name).links
        except FileNotFoundError:
            links = 0
        found.append(FileInfo(name, file.size, file.plain, links))
    return found


def entries_of(checkpoint: Checkpoint, files: list[FileInfo]) -> list[Entry]:
    """The state of a checkpoint, containers before what is in them.

    Raises:
        FormatError: the structure cannot be understood.
    """
    from milepost.core import tree

    linked = {file.name for file in files if file.names > 1}
    nodes = [node for item, structure in checkpoint.manifest.items.items() for node in tree.walk(structure, item)]
    totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for node in nodes:
        if node.kind == "tensor":
            for above in _with_all_above(node.path):
                nbytes, shared = _bytes(checkpoint, node.path, linked)
                totals[above][0] += nbytes
                totals[above][1] += shared
    return [_entry(checkpoint, node, totals) for node in nodes]


def _entry(checkpoint: Checkpoint, node: tree.Node, totals: dict[str, list[int]]) -> Entry:
    tensor = checkpoint.manifest.tensors.get(node.path) if node.kind == "tensor" else None
    nbytes, shared = totals[node.path]
    return Entry(
        node.path,
        node.path.count("/"),
        node.kind,
        checkpoint.specs[node.path] if tensor is not None else None,
        node.size,
        nbytes,
        shared,
        tensor.same_as if tensor is not None else None,
        len(tensor.shards) if tensor is not None else 0,
        tensor is None or all(shard.finite is not False for shard in tensor.shards),
        node.encoded,
        "" if node.size is not None or node.kind == "tensor" else node.text(),
    )


def _bytes(checkpoint: Checkpoint, path: str, linked: set[str]) -> tuple[int, int]:
    """Bytes of a tensor, and those of them in shared files; tied tensors have none of their own."""
    tensor = checkpoint.manifest.tensors.get(path)
    if tensor is None or tensor.same_as is not None:
        return 0, 0
    nbytes = checkpoint.specs[path].nbytes
    return nbytes, nbytes if tensor.shards and all(shard.file in linked for shard in tensor.shards) else 0


def _with_all_above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
