"""The process that runs `milepost.orbax.saving`, and the memory it shares with this one."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from milepost.core.source import TensorSource
from milepost.errors import FormatError, NotStorableError
from milepost.orbax.tree import Tree
from milepost.storage.base import storage_error

ALIGNED = 64
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "import importlib; importlib.import_module(sys.argv[2]).main()"
)
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
"""No accelerator is touched: the job that uses it may be running."""


class Saver:
    """Orbax in a process of its own, for one checkpoint after the other.

    Raises:
        FormatError: Orbax is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("orbax") is None or importlib.util.find_spec("orbax.checkpoint") is None:
            raise FormatError(
                "Orbax checkpoints are written by Orbax, which is not installed", hint="pip install 'milepost[orbax]'"
            )
        self._memory = os.memfd_create("milepost-export", os.MFD_CLOEXEC)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            if kind is not None:
                self._process.kill()
            self._process.communicate()
        os.close(self._memory)
        self._said.close()

    def save(
        self, source: TensorSource, trees: dict[str, Tree], origins: dict[str, str], **job: Any
    ) -> dict[str, dict[str, npt.NDArray[Any]]]:
        """Save `trees`, whose tensors are read from `source`.

        Args:
            source: the checkpoint.
            trees: by the name of the item.
            origins: by the name of the item, what its paths begin with in the source.
            job: what `milepost.orbax.saving.answer` takes besides.

        Returns:
            By item and path, the arrays as they were handed over.

        Raises:
            DamagedError, StorageError: the source cannot be read, or the destination not be written.
            NotStorableError: Orbax refused it.
        """
        if self._process is None:
            self._process = self._start()
        listed, size = _laid_out(trees)
        os.ftruncate(self._memory, 0)
        os.ftruncate(self._memory, size)
        room = np.frombuffer(mmap.mmap(self._memory, size), np.uint8)
        handed = {name: _filled(source, origins[name], tree, listed[name], room) for name, tree in trees.items()}
        described = {name: (tree.node, listed[name]) for name, tree in trees.items()}
        self._ask(self._process, {"trees": described, "size": size, **job}, origins)
        return handed

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - the interpreter itself
            [sys.executable, "-I", "-c", _START, json.dumps(_search_path()), "milepost.orbax.saving", str(self._memory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
            pass_fds=(self._memory,), cwd="/", text=True, env={**os.environ, **_ENVIRONMENT},
        )  # fmt: skip

    def _ask(self, process: subprocess.Popen[str], job: dict[str, Any], origins: dict[str, str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            found = self._last_words(process.wait())
            raise FormatError("Orbax could not be run", found=found, hint="is JAX installed and in order?")
        told = json.loads(answer)
        if "errno" in told:
            raise storage_error(OSError(told["errno"], told["error"]), "write the checkpoint", job["folder"])
        if "path" in told:
            where = origins[told["item"]] + told["path"]
            raise NotStorableError(told["error"], where=where, hint=f"leave_out=[{where!r}] exports the rest")
        if "error" in told:
            raise NotStorableError("Orbax cannot save this", found=told["error"][:500])

    def _last_words(self, code: int) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else f"exit code {code}"


def _laid_out(trees: dict[str, Tree]) -> tuple[dict[str, dict[str, dict[str, Any]]], int]:
    """Where each array goes, by item and path, and the bytes of all."""
    listed: dict[str, dict[str, dict[str, Any]]] = {}
    size = 0
    for name, tree in trees.items():
        found: dict[str, tuple[str, tuple[int, ...], int]] = {
            path: (spec.dtype.name, spec.shape, spec.nbytes) for path, spec in tree.tensors.items()
        }
        found |= {path: (array.dtype.name, array.shape, array.nbytes) for path, array in tree.arrays.items()}
        listed[name] = {}
        for path, (kind, shape, nbytes) in found.items():
            listed[name][path] = {"dtype": kind, "shape": shape, "offset": size}
            size += -(-nbytes // ALIGNED) * ALIGNED
    return listed, max(size, ALIGNED)


def _filled(
    source: TensorSource, origin: str, tree: Tree, listed: dict[str, dict[str, Any]], room: npt.NDArray[np.uint8]
) -> dict[str, npt.NDArray[Any]]:
    """Put the arrays of `tree` where they are to be."""
    handed = {}
    for path, spec in tree.tensors.items():
        at, kind = listed[path]["offset"], spec.dtype.numpy
        assert kind is not None  # or it would be in no tree
        place = room[at : at + spec.nbytes]
        done = 0
        for block in source.blocks(origin + path):
            place[done : done + block.nbytes] = block.reshape(-1).view(np.uint8)
            done += block.nbytes
        handed[path] = place.view(kind).reshape(spec.shape)
    for path, array in tree.arrays.items():
        at = listed[path]["offset"]
        place = room[at : at + array.nbytes]
        place[:] = np.frombuffer(array.tobytes(), np.uint8)
        handed[path] = place.view(array.dtype).reshape(array.shape)
    return handed


def _search_path() -> list[str]:
    """Where the process finds modules: as this one does, but for whatever folder is the current one."""
    return [os.path.abspath(entry) for entry in sys.path if entry]
