"""Signals that ask a job to stop: noticed at once, answered at the next boundary of the training loop.

A handler interrupts the program between any two of its instructions, with locks held and state half changed. So it sets
flags and nothing else; who saves and stops looks at them where that is safe.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self

from milepost.errors import MilepostWarning, ScriptError
from milepost.slurm.submitit import is_of_submitit

DEFAULT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What comes before a kill: SIGTERM, and the two that users ask for, as in ``sbatch --signal=USR1@120``."""

WARNINGS = frozenset((signal.SIGUSR1, signal.SIGUSR2))
"""Those that only warn: whoever sends them does not mean to end the process, though that is what they do by default."""

CANNOT_WAIT = frozenset(
    (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
)
"""Signals that no handler can put off: the system acts at once, or the instruction that raised one does so again."""

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class Received(NamedTuple):
    """A signal that came. `time` is in seconds since the epoch."""

    name: str
    number: int
    time: float


class SignalWatch:
    """Notices signals from `install` to `uninstall`, or within a ``with`` block. `dismiss` ends that more gently.

    A Python handler that was there before is called after the flags are set; the default action (to end), a handler
    of native code and those of submitit are not. Processes forked meanwhile, data loader workers above all, get the
    earlier handlers back. Where SIGINT is watched, a second one raises `KeyboardInterrupt`.

    Args:
        signals: numbers of the signals to watch.
        warn: takes a line for people where signals cannot be watched; without it, it is a `MilepostWarning`.

    Raises:
        ScriptError: something that is no signal, or one that cannot be watched.

    Example:
        >>> with SignalWatch() as watch:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     print(watch.received.name, watch.count)
        SIGTERM 1
    """

    def __init__(self, signals: Iterable[int] = DEFAULT, warn: Callable[[str], None] | None = None) -> None:
        self._names = {number: name_of(number) for number in signals}
        self._warn = warn if warn is not None else _warn
        self._earlier: dict[int, Handler] = {}
        self._swallowed_until: dict[int, float] = {}
        self._handler = self._handle  # one object, by which to know whether a signal is still ours
        self._installed = False
        self._forget()

    def _forget(self) -> None:
        self._received: Received | None = None
        self._count = 0
        self._interrupted = False

    @property
    def installed(self) -> bool:
        """Whether signals are being noticed."""
        return self._installed

    @property
    def received(self) -> Received | None:
        """The first signal that came, or None."""
        return self._received

    @property
    def count(self) -> int:
        """How many came, at least: the system and Python merge those that come close together."""
        return self._count

    def install(self) -> None:
        """Begin to watch; twice is fine. Off the main thread, where Python allows no handlers, it warns instead."""
        for watch in [one for one in _installed if one._swallowed_until]:
            watch.uninstall()
        if self._installed:
            return
        if threading.current_thread() is not threading.main_thread():
            names = ", ".join(self._names.values())
            self._warn(f"{names} will not be answered: signals can be watched from the main thread only")
            return
        self._forget()
        native = _native_handlers(self._names)
        for number, name in self._names.items():
            if number in native:  # it could be neither called nor put back
                self._warn(f"{name} will not be answered: a library has a handler of its own for it")
                continue
            self._earlier[number] = signal.getsignal(number)
        self._installed = True
        _installed.append(self)
        for number in self._earlier:
            signal.signal(number, self._handler)

    def uninstall(self) -> None:
        """Stop watching, and put the earlier handlers back where ours is still in place. Twice is fine."""
        if not self._installed:
            return
        self._installed = False
        self._swallowed_until = {}
        _installed.remove(self)
        self._put_back(self._earlier)

    def dismiss(self, numbers: Container[int] | None = None, seconds: float | None = None) -> None:
        """Stop watching, but keep `numbers` (all, by default) from ending the process for so many `seconds` (to its end, by
        default), or until another watch begins. The others are as they were before."""
        if self._installed:
            until = math.inf if seconds is None else time.monotonic() + seconds
            over = [number for number in self._earlier if numbers is not None and number not in numbers]
            self._swallowed_until = dict.fromkeys(self._earlier, until) | dict.fromkeys(over, -math.inf)
            self._put_back(over)

    def _put_back(self, numbers: Iterable[int]) -> None:
        # Off the main thread Python sets no handlers: `_handle`, which runs there, does so when it is next called.
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                if signal.getsignal(number) is self._handler:
                    signal.signal(number, _still_wanted(number, self._earlier[number]))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        earlier = self._earlier[number]
        over = not self._installed or time.monotonic() >= self._swallowed_until.get(number, math.inf)
        if over and signal.getsignal(number) is self._handler:
            self._put_back([number])
            os.kill(os.getpid(), number)
            return
        again = False
        if self._installed:
            self._count += 1
            if self._received is None:
                self._received = Received(self._names[number], number, time.time())
            if number == signal.SIGINT:
                again, self._interrupted = self._interrupted, True
        # Python's own handler of SIGINT is not called, nor is submitit's: they would end the training in the middle of a step.
        if callable(earlier) and earlier is not signal.default_int_handler and not is_of_submitit(earlier):
            earlier(number, frame)
        if again:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstall()


_installed: list[SignalWatch] = []
"""All that are watching, in the order in which they began."""


def _ignore_the_rest() -> None:
    # The interpreter puts the default actions back before it has ended: a signal then would take the place of the exit code.
    if threading.current_thread() is threading.main_thread():
        for watch in _installed:
            for number in watch._earlier:
                if signal.getsignal(number) is watch._handler:
                    signal.signal(number, signal.SIG_IGN)


atexit.register(_ignore_the_rest)


def _still_wanted(number: int, handler: Handler) -> Handler:
    """`handler`, or if it is that of a watch that has ended meanwhile, the one from before that."""
    while isinstance(watch := getattr(handler, "__self__", None), SignalWatch) and not watch.installed:
        handler = watch._earlier[number]
    return handler


def _native_handlers(numbers: Iterable[int]) -> set[int]:
    """Those that a library has taken without Python (as ``faulthandler.register`` does), where the system tells."""
    status = Path("/proc/self/status")
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE) if status.exists() else None
    mask = int(caught[1], 16) if caught else 0
    return {number for number in numbers if not callable(signal.getsignal(number)) and mask >> (number - 1) & 1}


# -- processes forked while signals are watched ------------------------------------------------------------------------

_forking = threading.local()


def _before_fork() -> None:
    # A signal that came to a child before it is reset would be taken for the trainer's and be lost.
    watched = {number for watch in _installed for number in watch._earlier}
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def reset_in_child() -> None:
    """Undo every watch, newest first: the signals are meant for the trainer."""
    while _installed:
        watch = _installed[-1]
        watch.uninstall()
        watch._forget()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=reset_in_child)


def name_of(number: int) -> str:
    """The name of a signal, such as "SIGTERM".

    Raises:
        ScriptError: something that is no signal, or one that cannot be watched.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number not in signal.valid_signals():
        hint = "as in signals=[signal.SIGTERM, signal.SIGINT]"
        raise ScriptError("that is no signal", where="signals=", found=repr(number), hint=hint)
    known = {one.value: one.name for one in signal.Signals}
    name = known.get(number) or f"SIGRTMIN+{number - signal.SIGRTMIN}"
    if number in CANNOT_WAIT:
        raise ScriptError(f"{name} cannot be answered by a save", where="signals=", hint="take it out of signals=")
    return name


def _warn(line: str) -> None:
    warnings.warn(line, MilepostWarning, stacklevel=4)
