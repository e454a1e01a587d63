"""A process for libraries that are too large to be trusted with a file of a stranger: HDF5, tensorstore.

It gets a bounded address space and processor time, and no more of the environment than it needs. What it dies of is a `FormatError`
here, and the next question is asked of a new one. One process serves one source, from the first question until the source is gone.
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
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from milepost.errors import FormatError, UnsafeContentError
from milepost.formats import bounds

PATIENCE = 20.0
"""Seconds without a byte of an answer, after which the process is given up. One that computes is ended much earlier, by the
processor time it has taken; this is for one that hangs, and leaves room for slow disks."""
LARGEST_ANSWER = 128 * 1024 * 1024

_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "import importlib; importlib.import_module(sys.argv[2]).main()"
)
_KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", bounds.VARIABLE)
_ENVIRONMENT = {
    "HDF5_PLUGIN_PRELOAD": "::",  # no filters from files
    "HDF5_USE_FILE_LOCKING": "FALSE",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Child:
    """The other end of `milepost.formats.child_serve.serve`. Threads may share it; after a fork each process has its own.

    Args:
        module: the module below `milepost.formats` whose ``main`` runs there.
        where: the place, for errors.
        opened: a descriptor that it has too, whenever it is started.
    """

    def __init__(
        self, module: str, where: str, opened: Callable[[], AbstractContextManager[int | None]] = nullcontext
    ) -> None:
        self._module, self._where, self._opened = module, where, opened
        self._first: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._finish: weakref.finalize[..., Any] | None = None
        _children.add(self)

    @property
    def remembered(self) -> int:
        """How many questions are asked of every process that is started, before anything else."""
        return len(self._first)

    def ask(self, out: memoryview | None = None, *, again: bool = False, **question: Any) -> Any:
        """The answer to `question`, made of what JSON can say; the bytes that follow it go into `out`.

        Args:
            out: as many bytes as will follow.
            again: ask this of every process that is started later, before anything else.
            question: what `serve` takes.

        Raises:
            FormatError: it cannot answer, or died of it.
            UnsafeContentError: the file asks for what none needs.
        """
        with self._lock:
            if self._process is None:
                self._start()
            answer = self._answer(out, question)
            if again:
                self._first.append(question)
            return answer

    def _start(self) -> None:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with self._opened() as fd:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter itself
                [
                    sys.executable,
                    "-I",
                    "-c",
                    _START,
                    json.dumps(_search_path()),
                    f"milepost.formats.{self._module}",
                    f"{fd}",
                ],
                bufsize=0,  # a buffer has a lock, which another thread may hold while this process is forked
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**kept, **_ENVIRONMENT},
                pass_fds=() if fd is None else (fd,),
                start_new_session=True,  # Ctrl-C is for this process to answer
            )
        self._finish = weakref.finalize(self, _end, self._process)
        try:
            for question in self._first:
                self._answer(None, question)
        except BaseException:
            self.forget(end=True)
            raise

    def _answer(self, out: memoryview | None, question: dict[str, Any]) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            try:
                left = json.dumps(question).encode() + b"\n"
                while left:
                    left = left[os.write(self._process.stdin.fileno(), left) :]
            except BrokenPipeError:
                raise self._dead() from None
            answer = json.loads(self._take(int.from_bytes(self._take(8))))
            if out is not None and "error" not in answer:
                self._fill(out)
        except BaseException:  # what is left of an answer would be taken for the next
            self.forget(end=True)
            raise
        if answer.get("beyond"):
            raise bounds.too_much(answer["error"], self._where, found=answer["found"])
        if "error" in answer:
            kind = UnsafeContentError if answer.get("unsafe") else FormatError
            raise kind(answer["error"], where=self._where, found=answer["found"])
        return answer["answer"]

    def forget(self, *, end: bool) -> None:
        """Let the next question begin with a new process; `end` this one, if it is not another's too."""
        if self._finish is not None:
            self._finish() if end else self._finish.detach()
        self._process = self._finish = None

    def _take(self, size: int) -> bytes:
        if size > bounds.most(LARGEST_ANSWER):
            raise bounds.too_much("more is in the file than in any checkpoint", self._where)
        out = bytearray(size)
        self._fill(memoryview(out))
        return bytes(out)

    def _fill(self, out: memoryview) -> None:
        assert self._process is not None
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
        assert self._process is not None
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return FormatError("the library for this format does not answer", where=self._where)
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code == -signal.SIGPROF:
            message = "the library for this format takes too much processor time for a file that may be a stranger's"
            return bounds.too_much(message, self._where, found=f"its process: {ended}")
        return FormatError(
            "the library for this format gave up on the file: it was damaged or made to mislead",
            where=self._where,
            found=f"its process: {ended}",
        )

    def leave(self) -> None:
        """In a forked process: this one is the other's, and its lock may be held for ever."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._process.returncode = 0  # it is not ours to wait for
        self.forget(end=False)


_children: weakref.WeakSet[Child] = weakref.WeakSet()


def _leave_all() -> None:
    for child in list(_children):
        child.leave()


os.register_at_fork(after_in_child=_leave_all)


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
