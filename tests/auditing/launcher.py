"""Runs of Python scripts that need not import their framework each time.

`Launcher` starts one server process, which has imported torch (or Keras, with what its backend needs) and milepost. For each
`launch` the server forks a keeper, and that a child, which becomes what ``python script.py ...`` would be: arguments, environment,
folder, output, ``__main__``, exit code. The keeper waits for it, kills it when its time is over, and tells the exit code.

What a script could notice: the framework and milepost are in ``sys.modules`` before its first line (and before a ``sitecustomize``
that a request's PYTHONPATH brings); hashes of strings are those of the server in all children. Where that matters,
``fresh=True`` starts a real interpreter, as happens by itself where the request could not be answered by a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Self

TIMED_OUT = 124
"""Exit code of a script that was killed since its time was over, as of `timeout`."""
_READ_AT_START = (
    "PYTHON", "LD_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "TORCH", "ATEN_", "CUDA", "MALLOC_", "KERAS_", "TF_", "JAX_",
    "XLA_",
)  # fmt: skip
"""Variables that begin so are read when an interpreter or a library starts: a child cannot be given others."""

_SET_BY_IMPORTS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR")
"""TensorFlow and PyTorch put these into the environment of whoever imports them, also of a process that runs tests."""

_HASHES = {"PYTHONHASHSEED": "0"}
"""Where a request says nothing else, so that one that says just this need not start an interpreter."""

TORCH = (
    "torch._dynamo",  # by the first optimizer of each script otherwise, which takes longer than all the rest
    "torch.amp.grad_scaler",
    "milepost.auditing.foreign.observer",
    "milepost.auditing.observer",
    "milepost.training.checkpointer",
    "milepost.torch.items",
    "milepost.torch.loader",
    "milepost.torch.overlap",
    "milepost.torch.watching",
)
KERAS = (
    "tensorflow",  # which Keras reads data with on every backend
    "keras",
    "milepost.auditing.foreign.fits",
    "milepost.auditing.observer",
    "milepost.keras.checkpoint",
)
"""What a server imports: neither TensorFlow nor JAX starts threads of its own before the first operation."""


class Launcher:
    """Runs scripts in forks of a process that has imported a framework and milepost.

    Args:
        imported: the modules that the server imports, `TORCH` or `KERAS`.
        environment: variables that the server has, and requests have to have, beside those of this process.

    `launch` may be called from several threads at once.

    Example:
        >>> with Launcher() as launcher:
        ...     launcher.launch([sys.executable, "train.py"], dict(os.environ), Path("runs"), Path("output.txt"), 60)
        0
    """

    def __init__(self, imported: Sequence[str] = TORCH, environment: Mapping[str, str] | None = None) -> None:
        self._env = {**_HASHES, **os.environ, **(environment or {})}
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *imported],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=self._env,
                start_new_session=True,  # Ctrl-C is for the tests, which close the socket then
            )

    def launch(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        output: Path,
        seconds: float | None,
        *,
        fresh: bool = False,
    ) -> int:
        """Run `command`, wait for it, and return its exit code: negative where a signal ended it, `TIMED_OUT` where it was killed
        after `seconds`, with all its children.

        Args:
            command: as for `subprocess.run`.
            env: the whole environment.
            cwd: the folder it runs in.
            output: a file that stdout and stderr are appended to.
            seconds: how long it may take; None for as long as it likes.
            fresh: start a real interpreter.
        """
        if fresh or not self._can_fork(command, env, cwd):
            return _run(command, env, cwd, output, seconds)
        request = {
            "command": list(command), "env": dict(env), "cwd": str(cwd), "output": str(output), "seconds": seconds
        }  # fmt: skip
        ours, theirs = socket.socketpair()
        with ours, theirs, os.fdopen(os.memfd_create("request"), "r+b") as letter:  # a packet may be too small for it
            letter.write(json.dumps(request).encode())
            letter.flush()
            socket.send_fds(self._socket, [b"launch"], [theirs.fileno(), letter.fileno()])
            theirs.close()
            answer = ours.recv(64)
        if not answer:
            raise RuntimeError(f"nobody waits for {command} any more (exit code of the server: {self._server.poll()})")
        return int(answer)

    def _can_fork(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> bool:
        if len(command) < 2 or command[0] != sys.executable or not (cwd / command[1]).is_file():
            return False
        asked, ours = _fixed({**_HASHES, **env}), _fixed(self._env)
        # What an import put into the environment of the process that runs the tests, after this was made, nobody asked for.
        since = {name for name in asked.keys() - ours.keys() if asked[name] == os.environ.get(name)}
        return {name: value for name, value in asked.items() if name not in since} == ours

    def close(self) -> None:
        """End the server; scripts that still run are killed."""
        self._socket.close()
        self._server.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fixed(env: Mapping[str, str]) -> dict[str, str]:
    apart = ("PYTHONPATH", *_SET_BY_IMPORTS)
    return {name: value for name, value in env.items() if name.startswith(_READ_AT_START) and name not in apart}


def _run(command: Sequence[str], env: Mapping[str, str], cwd: Path, output: Path, seconds: float | None) -> int:
    with output.open("ab") as file:
        process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# -- the server ---------------------------------------------------------------------------------------------------------


def _serve(requests: socket.socket, imported: Sequence[str]) -> None:
    """Answer requests until the other end is closed. This process has one Python thread and runs no kernel, so that a fork of it
    is whole."""
    started_with = os.environ.get("PYTHONPATH", "")
    for name in imported:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers need not be waited for
    while True:
        data, handles, _, _ = socket.recv_fds(requests, 64, 2)
        if not data:
            return
        answer, letter = handles
        if os.fork() == 0:
            try:
                requests.close()
                with os.fdopen(letter, "rb") as file:
                    file.seek(0)
                    request = json.load(file)
                _keep(request, socket.socket(fileno=answer), started_with)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        os.close(answer)
        os.close(letter)


def _keep(request: dict[str, Any], answer: socket.socket, started_with: str) -> None:
    """The keeper: start the child, wait for it, answer."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        answer.close()
        _become(request, started_with)
    handle = os.pidfd_open(child)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(answer, 0)  # only that the other end was closed
    seconds = request["seconds"]
    ended = any(number == handle for number, _ in poll.poll(None if seconds is None else seconds * 1000))
    if not ended:
        os.kill(child, signal.SIGSTOP)  # it may be about to make a session of its own
        for kill in (os.killpg, os.kill):
            try:
                kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status) if ended else TIMED_OUT
    try:
        answer.sendall(str(code).encode())
    except BrokenPipeError:  # nobody waits any more
        os._exit(1)
    os._exit(0)


# -- the child ------------------------------------------------------------------------------------------------------------


def _become(request: dict[str, Any], started_with: str) -> None:
    """Be ``python script.py ...``. Does not return."""
    code = 1
    try:
        os.setsid()
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        if "TZ" in os.environ:
            time.tzset()
        path = request["command"][1]
        sys.orig_argv[:] = request["command"]
        sys.argv[:] = request["command"][1:]
        _be_unseeded()
        _set_path(path, started_with)
        code = _run_main(path)
    except BaseException as error:  # of the launcher, or of a sitecustomize
        code = _exit_code(error)
    finally:
        _end(code)


def _be_unseeded() -> None:
    import random

    import numpy as np

    random.seed()
    np.random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def _set_path(script: str, started_with: str) -> None:
    """``sys.path`` as a new interpreter would have it, with what PYTHONPATH may bring along."""
    old, new = ([os.path.abspath(one) for one in text.split(os.pathsep) if text]
                for text in (started_with, os.environ.get("PYTHONPATH", "")))  # fmt: skip
    rest = sys.path[1:]
    if rest[: len(old)] == old:
        rest = rest[len(old) :]
    if old != new:
        import site

        sys.path[:] = [*new, *rest]
        for name in ("sitecustomize", "usercustomize"):
            sys.modules.pop(name, None)
        site.execsitecustomize()
        if site.ENABLE_USER_SITE:
            site.execusercustomize()
        rest = sys.path[len(new) :]
        new = sys.path[: len(new)]
    sys.path[:] = [os.path.dirname(os.path.realpath(script)), *new, *rest]


def _run_main(path: str) -> int:
    """Run a script as ``__main__``, a module that stays, unlike that of `runpy`."""
    main: Any = ModuleType("__main__")
    main.__file__ = os.path.abspath(path)
    main.__cached__ = None
    main.__loader__ = SourceFileLoader("__main__", path)
    main.__builtins__ = sys.modules["builtins"]
    main.__annotations__ = {}
    sys.modules["__main__"] = main
    try:
        exec(compile(Path(path).read_bytes(), main.__file__, "exec", dont_inherit=True), main.__dict__)
    except BaseException as error:
        return _exit_code(error)
    return 0


def _exit_code(error: BaseException) -> int:
    """What the interpreter makes of an exception that nobody caught: it shows it, and exits with this code."""
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    sys.excepthook(type(error), error.with_traceback(traceback), traceback)
    return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def _end(code: int) -> None:
    """End as the interpreter does: threads, exit handlers, buffers."""
    import atexit
    import threading

    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        if code == -signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _requests:
        _serve(_requests, sys.argv[2:])
