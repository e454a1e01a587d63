"""The command line as a process, in a terminal, and within the test."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from milepost.cli.main import main

MILEPOST = [sys.executable, "-c", "import sys; from milepost.cli.main import main; sys.exit(main())"]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ended]


def environment(**extra: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "PYTHONPATH") if name in os.environ}
    return kept | {"LANG": "C.UTF-8", "PYTHONWARNINGS": "error", "TERM": "xterm"} | extra


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command within the test."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def process() -> Cli:
    """Run a command as a process of its own, its output in pipes."""

    def run(*arguments: object, cwd: object = None, **extra: str) -> Ended:
        done = subprocess.run(
            [*MILEPOST, *map(str, arguments)],
            capture_output=True, text=True, cwd=cwd and str(cwd), env=environment(**extra), timeout=120, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


class Terminal:
    """A command in a terminal of so many columns, which shows stdout and stderr and is its stdin."""

    def __init__(self, arguments: Sequence[object], columns: int, extra: dict[str, str]) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(MILEPOST[0], [*MILEPOST, *map(str, arguments)], environment(**extra))
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end in the middle of a character
        self.shown = ""

    def read_until(self, text: str) -> None:
        """Read until `text` is shown (or the command ends)."""
        deadline = time.monotonic() + 60
        while text not in self.shown and time.monotonic() < deadline:
            ready, _, _ = select.select([self._fd], [], [], 1)
            if ready:
                try:
                    part = os.read(self._fd, 65536)
                except OSError:  # how a terminal says that nobody is left in it
                    return
                self.shown += self._decoder.decode(part).replace("\r\n", "\n")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def end(self) -> int:
        """Read all that is left; returns the exit code."""
        self.read_until("\0 nothing prints this")
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal() -> Callable[..., Terminal]:
    """Start a command in a terminal."""

    def start(*arguments: object, columns: int = 80, **extra: str) -> Terminal:
        return Terminal(arguments, columns, extra)

    return start
