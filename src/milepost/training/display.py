"""Progress for people, on stderr: one live line on a terminal, now and then a plain line elsewhere.

Drawing happens in `Display.update`, on the thread that trains and a few times a second; there is no thread that draws,
which a fork would copy half done. What comes from outside (names of metrics, error messages, paths) is escaped.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO, cast

from milepost.core.text import safe
from milepost.errors import MetricError
from milepost.training.progress import Phase

if TYPE_CHECKING:
    from milepost.training.progress import Progress

REDRAW_SECONDS = (0.1, 1.0)
"""The time between two looks at what there is to show: the shorter one, or on a slow terminal the longer one at most."""
DRAWING = 0.005
"""The part of the time that goes into it."""
LINE_SECONDS = 60.0
"""Where there is no terminal, a line is written at the start, after each epoch, and when this has passed."""
SMOOTHED_SECONDS = 10.0
"""Speed is that of about so long."""
PREFIX = "milepost: "
ERASE_TO_END = "\x1b[K"


class SaveState(StrEnum):
    """What has become of a save."""

    STAGING = "staging"
    WRITING = "writing"
    ON_NODE = "on the node"
    DURABLE = "durable"
    FAILED = "failed"


class Display:
    """What a person sees of a run. Never raises for a stream that is closed or full: training goes on without it.

    Args:
        enabled: whether progress is shown: a live line if stderr is a terminal, else plain lines (None); a live line
            whatever stderr is (True); not at all (False). Notes and warnings are written in any case.
        clock: seconds, for tests.

    Example:
        >>> display = Display()
        >>> display.note("runs/mnist, attempt 2: continues from step 1200")
        milepost: runs/mnist, attempt 2: continues from step 1200
    """

    def __init__(self, enabled: bool | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._enabled, self._clock = enabled, clock
        self._lock = threading.RLock()
        self._live: LiveLine | None = None
        self._off = enabled is False
        self._next = -math.inf
        self._next_line = math.inf
        self._progress: Progress | None = None
        self._total: int | None = None
        self._epoch = 0
        self._steps, self._batches = Speed(), Speed()
        self._durable: int | None = None
        self._on_node: int | None = None
        self._in_flight: tuple[int, SaveState] | None = None
        self._last_line = ""

    def note(self, text: str) -> None:
        """Say something once, from any thread. Lines after the first are indented: none looks like another note."""
        self._say(text.split("\n"))

    def warn(self, text: str) -> None:
        """Say that something is not as asked for, from any thread."""
        self._say(f"warning: {text}".split("\n"))

    def checkpoint(self, step: int, state: SaveState) -> None:
        """What has become of the save of `step`, from any thread."""
        if state is SaveState.DURABLE:
            self._durable = step
        elif state is SaveState.ON_NODE:
            self._on_node = step
        else:
            self._in_flight = (step, state)
            return
        if self._in_flight is not None and self._in_flight[0] <= step:
            self._in_flight = None

    def update(self, progress: Progress, total: int | None = None) -> None:
        """Show where the run is. To be called after every step and epoch; mostly it looks at the clock and returns.

        Args:
            progress: where the run is. It is kept, and read again when there is something to show.
            total: batches in this epoch, if known.
        """
        now = self._clock()
        ended = progress.phase is Phase.EPOCH_ENDED and progress.epoch != self._epoch
        if self._off or (now < self._next and not ended):
            return
        with self._lock:
            self._measure(now, progress)
            first, self._progress, self._total = self._progress is None, progress, total
            if first:
                self._begin()
            if self._live is not None:
                self._live.draw(self._parts(progress))
            elif first or now >= self._next_line or progress.epoch != self._epoch:
                self._next_line = now + LINE_SECONDS
                self._say_where(progress)
            self._epoch = progress.epoch
        shortest, longest = REDRAW_SECONDS
        self._next = now + min(max(shortest, (self._clock() - now) / DRAWING), longest)

    def close(self) -> None:
        """Leave a last plain line, and give the terminal back. Twice is fine."""
        with self._lock:
            live, self._live = self._live, None
            if live is not None:
                atexit.unregister(self._close_at_exit)
                live.close()
            if self._progress is not None:
                self._say_where(self._progress)
            self._progress, self._off = None, True

    def _close_at_exit(self) -> None:
        if self._live is not None and self._live.ours:
            self.close()

    def _begin(self) -> None:
        if sys.stderr is not None and (self._enabled or _is_terminal(sys.stderr)):
            self._live = LiveLine(sys.stderr, self._lock)
            atexit.register(self._close_at_exit)

    def _say_where(self, progress: Progress) -> None:
        line = ", ".join(f"{label} {value}".lstrip() for label, value, _ in self._parts(progress))
        if line != self._last_line:
            self._last_line = line
            self._say([line])

    def _say(self, lines: Iterable[str]) -> None:
        text = ("\n" + " " * len(PREFIX)).join(map(safe, lines))
        with self._lock:
            if self._live is not None:
                self._live.above(f"{PREFIX}{text}\n")
            else:
                _write(sys.stderr, f"{PREFIX}{text}\n")

    def _measure(self, now: float, progress: Progress) -> None:
        if progress.epoch != self._epoch:  # between two epochs no step is made
            self._steps.pause()
            self._batches.pause()
        self._steps.at(now, progress.step)
        self._batches.at(now, progress.batch)

    def _parts(self, progress: Progress) -> list[Part]:
        """What is to be said, as (label, value, style). Metrics come last: there may be more than a terminal is wide."""
        total, ended = self._total, progress.phase is Phase.EPOCH_ENDED
        if ended:
            epoch = f"{progress.epoch - 1} ended"
        elif progress.batch or total is not None:
            epoch = f"{progress.epoch} ({progress.batch}{'' if total is None else f'/{total}'})"
        else:
            epoch = str(progress.epoch)
        parts = [("epoch", epoch, ""), ("step", str(progress.step), "bold")]
        if self._steps.value:
            parts.append(("", f"{self._steps.value:.3g} steps/s", ""))
        if self._batches.value and total is not None and not ended:
            parts.append(("", f"{_duration((total - progress.batch) / self._batches.value)} left", ""))
        if self._durable is not None:
            parts.append(("saved", str(self._durable), "green"))
        if self._on_node is not None and self._on_node > (self._durable or 0):
            parts.append((SaveState.ON_NODE.value, str(self._on_node), "yellow"))
        in_flight = self._in_flight
        if in_flight is not None:
            step, state = in_flight
            parts.append((state.value, str(step), "red" if state is SaveState.FAILED else "yellow"))
        try:
            parts += [(safe(name), f"{value:.4g}", "cyan") for name, value in progress.metrics.items()]
        except MetricError:
            parts.append(("metrics", "cannot be read", "red"))
        return parts


Part = tuple[str, str, str]


class Speed:
    """Things per second, smoothed exponentially over about `SMOOTHED_SECONDS`."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._last: tuple[float, int] | None = None

    def at(self, now: float, count: int) -> None:
        """At time `now` so many are done. Where they have become fewer, counting begins anew."""
        if self._last is not None and now > self._last[0] and count >= self._last[1]:
            seconds = now - self._last[0]
            speed = (count - self._last[1]) / seconds
            weight = 1.0 if self.value is None else 1 - math.exp(-seconds / SMOOTHED_SECONDS)
            self.value = speed if self.value is None else self.value + weight * (speed - self.value)
        self._last = (now, count)

    def pause(self) -> None:
        """The time until now does not count."""
        self._last = None


class LiveLine:
    """A line at the bottom of a terminal that is drawn again and again, below what everybody else writes.

    Others must write above it: until `close`, `sys.stdout` and `sys.stderr` are stand-ins that take the line away
    before they pass text on. While somebody else's line is unfinished (a prompt, another progress bar), it stays away.

    Args:
        stream: the terminal.
        lock: held while anything is written.
    """

    def __init__(self, stream: TextIO, lock: threading.RLock) -> None:
        # Only here, so that a job without a terminal does not pay for it.
        from rich.console import Console
        from rich.text import Text

        self._stream, self._lock, self._process = stream, lock, os.getpid()
        self._console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._text = Text
        self._drawn = False
        self._line_free = True
        self._closed = False
        self._replaced: dict[str, tuple[TextIO, TextIO]] = {}
        for name in ("stdout", "stderr"):
            replaced = getattr(sys, name)
            if replaced is stream or _is_terminal(replaced):
                beside = cast("TextIO", Beside(replaced, self))
                self._replaced[name] = (replaced, beside)
                setattr(sys, name, beside)

    @property
    def ours(self) -> bool:
        """Whether this process drew the line, and is not a child that was forked from the one that did."""
        return os.getpid() == self._process

    def draw(self, parts: Iterable[Part]) -> None:
        """Draw the line, cut to the width of the terminal."""
        if not self._line_free:
            return
        text = self._text()
        for label, value, style in parts:
            text.append("  " if text else "")
            text.append(f"{label} " if label else "", "dim")
            text.append(value, style)
        with self._console.capture() as drawn:
            # One column stays free: a cursor past the last is in this line on some terminals, in the next on others.
            width = max(1, self._console.width - 1)
            self._console.print(text, end="", no_wrap=True, overflow="crop", crop=True, width=width)
        _write(self._stream, f"\r{drawn.get()}{ERASE_TO_END}")
        self._drawn = True

    def above(self, text: str) -> None:
        """Write whole lines where the line is; it comes back below them when it is next drawn."""
        self._erase()
        _write(self._stream, text if self._line_free else f"\n{text}")
        self._line_free = True

    def pass_on(self, text: str, write: Callable[[str], int]) -> int:
        """Let somebody else write `text`."""
        if self._closed or not self.ours:  # in a forked child the lock may be held for ever
            return write(text)
        with self._lock:
            self._erase()
            written = write(text)
            if text:
                self._line_free = text.endswith("\n")
            return written

    def close(self) -> None:
        """Take the line away, and put the streams back unless somebody has replaced them since."""
        self._closed = True
        self._erase()
        for name, (replaced, beside) in self._replaced.items():
            if getattr(sys, name) is beside:
                setattr(sys, name, replaced)

    def _erase(self) -> None:
        if self._drawn:
            _write(self._stream, f"\r{ERASE_TO_END}")
            self._drawn = False


class Beside:
    """A stream that is written to beside a `LiveLine`; in everything else the stream it stands for."""

    def __init__(self, stream: TextIO, line: LiveLine) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        """Write `text` where the line was."""
        return self._line.pass_on(text, self._stream.write)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all `lines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a line can be drawn in place there."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


def _write(stream: TextIO | None, text: str) -> None:
    """Write at once; what the stream cannot encode is escaped, and a stream that takes nothing gets nothing."""
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        return  # closed, or nobody reads: no reason to end the training


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03 or 2:03."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
