"""A process for libraries that are too large to be trusted with a file of a stranger: HDF5, tensorstore.

It gets a bounded address space and processor time, and no more of the environment than it needs. What it dies of is a `FormatError`
here. One process serves one source, from the first question until the source is gone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from typing import Any

from milepost.errors import FormatError, UnsafeContentError

PATIENCE = 60.0
"""Seconds without a byte of an answer, after which the process is given up: a hung one uses no processor time."""
LARGEST_ANSWER = 128 * 1024 * 1024

_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "import importlib; importlib.import_module(sys.argv[2]).main()"
)
_ENVIRONMENT = {
    "HDF5_PLUGIN_PRELOAD": "::",  # no filters from files
    "HDF5_USE_FILE_LOCKING": "FALSE",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Child:
    """The other end of `milepost.formats.child_serve.serve`.

    Args:
        module: the module below `milepost.formats` whose ``main`` runs there.
        where: the place, for errors.
        pass_fds: descriptors that it has too, under the same numbers.

    Raises:
        FormatError: it cannot be started.
    """

    def __init__(self, module: str, where: str, pass_fds: tuple[int, ...] = ()) -> None:
        self._where = where
        self._lock = threading.Lock()
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
        self._process = subprocess.Popen(  # noqa: S603 - the interpreter itself
            [sys.executable, "-I", "-c", _START, json.dumps(_search_path()), f"milepost.formats.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, **_ENVIRONMENT},
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C is for this process to answer
        )
        weakref.finalize(self, _end, self._process)

    def ask(self, out: memoryview | None = None, **question: Any) -> Any:
        """The answer to `question`, made of what JSON can say; the bytes that follow it go into `out`.

        Raises:
            FormatError: it cannot answer, or died of it.
            UnsafeContentError: the file asks for what none needs.
        """
        with self._lock:
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps(question).encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                raise self._dead() from None
            answer = json.loads(self._take(int.from_bytes(self._take(8))))
            if "error" in answer:
                kind = UnsafeContentError if answer["unsafe"] else FormatError
                raise kind(answer["error"], where=self._where, found=answer["found"])
            if out is not None:
                self._fill(out)
            return answer["answer"]

    def _take(self, size: int) -> bytes:
        if size > LARGEST_ANSWER:
            raise UnsafeContentError("more is in the file than in any checkpoint", where=self._where)
        out = bytearray(size)
        self._fill(memoryview(out))
        return bytes(out)

    def _fill(self, out: memoryview) -> None:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        ready = select.poll()  # select takes no descriptors from 1024 on
        ready.register(fd, select.POLLIN)
        while out:
            got = os.readv(fd, [out]) if ready.poll(PATIENCE * 1000) else 0
            if not got:
                raise self._dead()
            out = out[got:]

    def _dead(self) -> FormatError:
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        why = "it takes too much processor time" if code == -signal.SIGXCPU else "it was damaged or made to mislead"
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return FormatError(
            f"the library for this format gave up on the file: {why}", where=self._where, found=f"its process: {ended}"
        )


def _search_path() -> list[str]:
    """Where the process finds modules: as this one does, but not in the current folder, which may be the stranger's."""
    own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    here = os.path.realpath(os.getcwd())
    return [entry for entry in sys.path if entry and (entry == own or os.path.realpath(entry) != here)]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
