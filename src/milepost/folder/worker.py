"""One helping thread, for reading or writing a block while the caller digests another.

Not `concurrent.futures`: its threads take no work once the interpreter has begun to shut down, which is just when
the last save of a script that ended early must still be finished.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Self, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Task(Generic[T]):
    """A call under way."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._done = threading.Event()
        self._value: T | None = None
        self._problem: BaseException | None = None

    def run(self) -> None:
        """Make the call."""
        try:
            self._value = self._call()
        except BaseException as problem:  # noqa: BLE001 - raised by `result`, in the caller's thread
            self._problem = problem
        self._done.set()

    def wait(self) -> None:
        """Block until the call has ended, whichever way."""
        self._done.wait()

    def result(self) -> T:
        """What the call returned; raises what it raised."""
        self._done.wait()
        if self._problem is not None:
            raise self._problem
        return self._value  # type: ignore[return-value]


class Worker:
    """A daemon thread, started with the first call; calls are made in order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Task[T]:
        """Make a call in the thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        task = Task(lambda: call(*args, **kwargs))
        self._calls.put(task)
        return task

    def close(self) -> None:
        """End the thread after the calls made so far."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (task := self._calls.get()) is not None:
            task.run()
