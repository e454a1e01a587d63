"""What runs in the process that `milepost.formats.child` starts: it sets itself bounds, then answers questions."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from milepost.formats import bounds

Answer = tuple[Any, Iterator[bytes] | None]
"""What JSON can say, and bytes that follow."""


class RefusedError(Exception):
    """What the file asks for is refused, or cannot be read. `unsafe`: no honest file does; `beyond`: it is larger than is read."""

    def __init__(self, message: str, found: str | None = None, *, unsafe: bool = False, beyond: bool = False) -> None:
        super().__init__(message)
        self.found, self.unsafe, self.beyond = found, unsafe, beyond


def serve(memory: int, handlers: dict[str, Callable[..., Answer]]) -> None:
    """Answer questions until there are no more.

    Args:
        memory: bytes that may be taken beyond what the libraries have taken by now.
        handlers: by the question's ``do``. ``seconds`` is taken out before, and bounds the processor time of the answer, of all
            threads together; so is ``memory``, bytes that this answer may take beyond the others.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin.buffer:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, bounds.times() * question.pop("seconds"))  # its signal ends the process
        more = taken + memory + question.pop("memory", 0)
        resource.setrlimit(resource.RLIMIT_AS, (more, resource.RLIM_INFINITY))
        first, follows = b"", None
        try:
            answer, follows = handlers[question.pop("do")](**question)
            first = next(follows or iter(()), b"")  # what fails, fails here: later it could only end the process
            told: dict[str, Any] = {"answer": answer}
        except RefusedError as error:
            told = {"error": str(error), "found": error.found, "unsafe": error.unsafe, "beyond": error.beyond}
        except MemoryError:
            told = {"error": "the file asks for more memory than it may have", "found": None, "beyond": True}
        except Exception as error:  # noqa: BLE001 - whatever a library raises on what it cannot read
            message = "the file cannot be understood: it is damaged, or was made to mislead"
            told = {"error": message, "found": str(error)[:200]}
        raw = json.dumps(told).encode()
        out.write(len(raw).to_bytes(8) + raw)
        out.write(first)
        for piece in follows or ():
            out.write(piece)
        out.flush()
