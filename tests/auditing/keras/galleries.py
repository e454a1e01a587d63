"""Which script of a gallery is audited on which backend."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from launcher import KERAS, Launcher

NAMES = ("tensorflow", "jax", "torch")
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
"""Of every script, beside KERAS_BACKEND."""


class Backend(NamedTuple):
    name: str
    environment: Mapping[str, str]
    launcher: Launcher


class Backends:
    """The launchers that were started."""

    def __init__(self) -> None:
        self._open: dict[str, Backend] = {}
        self._stack = ExitStack()

    def get(self, name: str) -> Backend:
        if name not in self._open:
            environment = {**ENVIRONMENT, "KERAS_BACKEND": name}
            launcher = self._stack.enter_context(Launcher(KERAS, environment))
            self._open[name] = Backend(name, environment, launcher)
        return self._open[name]

    def close(self) -> None:
        self._stack.close()


class Gallery:
    """Scripts that are faulty, and their twins that are clean."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(__file__).parent / folder
        self.expected: dict[str, dict[str, Any]] = tomllib.loads((self.folder / "expected.toml").read_text())

    def path(self, kind: str, name: str) -> Path:
        return self.folder / kind / f"{name}.py"

    def names(self, kind: str) -> list[str]:
        return sorted(path.stem for path in (self.folder / kind).glob("*.py"))

    def backends(self, name: str) -> tuple[str, ...]:
        return tuple(self.expected.get(name, {}).get("backends", NAMES))

    def cases(self, kind: str, *, every: bool) -> Iterator[tuple[str, str]]:
        """(backend, script): every script on all of its backends; else a third of them, each on one."""
        for number, name in enumerate(self.names(kind)):
            backends = self.backends(name)
            if every:
                yield from ((one, name) for one in backends)
            elif number % 3 == (kind == "clean"):
                yield backends[number // 3 % len(backends)], name
